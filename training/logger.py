"""Where rows go besides metrics.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hypernets import UserError


class Logger(Protocol):
    """What the training loop tells of a run."""

    def log(self, row: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Log one step.

        Args:
            row: "step" (a whole number that rises from call to call), "epoch", "examples" and the metrics.
            pictures: image files or HTML pages in the run directory, by name.
        """

    def summary(self, values: Mapping[str, float]) -> None:
        """Set values of the run as a whole, such as its test error and its number of parameters."""

    def finish(self, exit_code: int = 0) -> None:
        """Write what is left; any exit code but 0 marks the run as failed."""


class NoLogger:
    """Logs nothing: for logger=none, and in every process but the first."""

    def log(self, row: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Ignore a row."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Ignore the summary."""

    def finish(self, exit_code: int = 0) -> None:
        """Do nothing."""


def check_logger(settings: Mapping[str, Any]) -> None:
    """Check what the settings say of the logger, before anything is written."""
    kind, mode = settings["logger"].get("kind"), settings["logger"].get("mode")
    if kind not in ("none", "wandb"):
        raise UserError(f"logger.kind is {kind!r}; it must be none or wandb.")
    if kind == "wandb" and mode not in ("offline", "online"):
        raise UserError(f"logger.mode is {mode!r}; it must be offline or online.")


def open_logger(settings: Mapping[str, Any], run_path: Path, rows: list[dict[str, float]]) -> Logger:
    """Open the logger that the settings ask for and bring it up to date.

    Args:
        settings: the composed configuration as plain values. `settings["logger"]` has the `kind`, "none" or "wandb",
            and for W&B mode, project, entity, group and tags. The whole becomes the run's configuration in W&B.
        run_path: the run directory, whose name becomes the run's name.
        rows: all rows that metrics.jsonl holds at this moment.
    """
    check_logger(settings)
    options = dict(settings["logger"])
    if options.pop("kind") == "none":
        return NoLogger()
    from training.wandb_logger import WandbLogger  # W&B takes a while to import: only those who log to it wait

    return WandbLogger(run_path, rows, job_type="train", config=dict(settings), **options)
