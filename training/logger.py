"""Where rows go besides metrics.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hypernets import UserError
from hypernets.errors import require_known

OF_WANDB = ("kind", "mode", "project", "entity", "group", "tags", "notes")  # all but kind as in wandb.init


class Logger(Protocol):
    """Receives what the training loop reports about a run."""

    def log(self, row: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Log "step" (which always rises), "epoch", "examples" and metrics; pictures and HTML pages are files."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Set values of the run as a whole, such as its test error and its number of parameters."""

    def finish(self, exit_code: int = 0) -> None:
        """Write what is left; any exit code other than 0 marks the run as failed."""


class NoLogger(Logger):
    """Logs nothing, like the methods above: for logger=none, and in every process except the first."""


def check_logger(settings: Mapping[str, Any]) -> None:
    """Check the logger's settings, before anything is written."""
    kind, mode = settings["logger"].get("kind"), settings["logger"].get("mode")
    if kind not in ("none", "wandb"):
        raise UserError(f"logger.kind is {kind!r}; it must be none or wandb.")
    if kind == "wandb" and mode not in ("offline", "online"):
        raise UserError(f"logger.mode is {mode!r}; it must be offline or online.")
    require_known("logger", settings["logger"], OF_WANDB if kind == "wandb" else ("kind",))


def check_access(settings: Mapping[str, Any], run_path: Path) -> None:
    """Raise UserError if the logger cannot log this run here, before anything is written."""
    if settings["logger"]["kind"] == "wandb":
        from training.wandb_logger import check_and_import  # W&B takes a while to import

        check_and_import(run_path, settings["logger"]["mode"])


def is_behind(settings: Mapping[str, Any], run_path: Path, last_step: int) -> bool:
    """Whether the log of a finished run, whose last row is of this step, is missing or not whole."""
    if settings["logger"]["kind"] == "none":
        return False
    from training.wandb_logger import STATE_FILE, UNFINISHED, read_state

    if not (run_path / STATE_FILE).exists() or (run_path / UNFINISHED).exists():
        return True
    return read_state(run_path).get("last_step", last_step) < last_step


def open_logger(settings: Mapping[str, Any], run_path: Path, rows: list[dict[str, float]]) -> Logger:
    """Open the logger that the settings ask for and bring it up to date with all rows that metrics.jsonl holds."""
    options = dict(settings["logger"])
    if options.pop("kind") == "none":
        return NoLogger()
    from training.wandb_logger import WandbLogger  # only those who log to it wait

    return WandbLogger(run_path, rows, job_type="train", config=dict(settings), **options)
