"""Where rows go besides metrics.jsonl."""

from collections.abc import Mapping
from typing import Any

from training.run_directory import RunDirectory


class NoLogger:
    """Logs nothing: logger=none, and all processes but the first."""

    shows_images = False

    def log(self, row: Mapping[str, Any], images: Mapping[str, Any] | None = None) -> None:
        """Ignore a row."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Ignore the summary."""

    def finish(self, exit_code: int = 0) -> None:
        """Do nothing."""


def open_logger(settings: Mapping[str, Any], run: RunDirectory | None):
    """Open the logger that the settings ask for and bring it up to date with the rows that the run has already.

    Args:
        settings: the composed configuration as plain values, logged as the run's configuration.
        run: the run directory, in the first process; None in the others, which log nothing.

    """
    logger = dict(settings["logger"])
    name = logger.pop("name")
    if name == "none" or run is None:
        return NoLogger()
    from training.wandb_logger import WandbLogger  # W&B loads only for those who log

    rows = run.metrics()
    last_step = rows[-1]["step"] if rows else -1
    opened = WandbLogger(
        run.path, name=run.path.name, job_type="train", config=dict(settings), last_kept_step=last_step, **logger
    )
    for row in rows:
        opened.log(row)
    return opened
