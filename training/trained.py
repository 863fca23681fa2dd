"""A trained network with its data, for evaluation, samples and pictures."""

from pathlib import Path
from typing import Any

from hypernets import UserError
from training import checkpoint
from training.distributed import start_processes
from training.loop import load_state
from training.run import read_facts, read_settings
from training.task import Splits, Task
from training.tasks import build_task


def load_trained(run: Path, device: str) -> tuple[dict[str, Any], Splits, Task, int]:
    """Return a run's settings, its splits, its task with the network that was best on validation, and that step."""
    facts, settings, best = read_facts(run), read_settings(run), read_best(run)
    splits, task = build_task(settings, start_processes(device))
    if splits.digest != facts["data"]:
        raise UserError(
            f"The data set that was read is not the one that {run} was trained on; set HYPERNETS_DATA to the folder "
            "that holds it."
        )
    load_state(task.network, best["network"])
    return settings, splits, task, best["step"]


def read_best(run: Path) -> dict[str, Any]:
    """Return the checkpoint of a run's network that was best on validation."""
    best = checkpoint.load_best(run, read_facts(run)["id"])
    if best is None:
        raise UserError(f"The run {run} has no best network that is whole; it is written at the first validation.")
    return best
