"""Evaluate the best checkpoint of a run on its validation and test splits.

    python eval.py runs/NAME [--device cpu]

Prints the metrics and the parameter count as text on standard error and as one JSON object on standard output.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from torch import nn

from train import build
from training import checkpoint
from training.command_line import one_line_errors
from training.distributed import start_processes
from training.precision import autocast, resolve_precision
from training.run_directory import CONFIG, read_settings, require_same_data


def load_run(run: Path, device: str, newest: bool = False) -> tuple[dict[str, Any], Any, nn.Module, int]:
    """Return a run's settings, its splits, its task with the best (or the newest) main network, and the step of that.

    Raises:
        ValueError: there is no run, its data set is another by now, or the checkpoint is missing or corrupt.
        FileNotFoundError: its data set is not there and could not be downloaded.
    """
    if not (run / CONFIG).exists():
        raise ValueError(f"There is no run in {run}: it has no {CONFIG}.")
    if not newest and not (run / checkpoint.BEST).exists():
        raise ValueError(f"The run {run} has no best checkpoint yet; it is written at the first validation.")
    settings = read_settings(run)
    splits, task = build(settings, start_processes(device))
    require_same_data(run, splits.digest)
    saved = checkpoint.read_newest(run)[0] if newest else checkpoint.load(run / checkpoint.BEST)
    task.main_network.load_state_dict(saved["main_network"])
    return settings, splits, task, saved["step"]


def evaluate(run: Path, device_name: str) -> dict[str, float | int | str]:
    """Return the metrics of the best checkpoint on all splits, its step and the parameter count.

    Raises:
        ValueError: as `load_run`.
    """
    settings, splits, task, step = load_run(run, device_name)
    parameters = list(task.parameters())
    result = {"run": run.name, "step": step, "parameters": sum(parameter.numel() for parameter in parameters)}
    device = parameters[0].device
    with autocast(resolve_precision(settings["precision"], device), device):
        for name, split in {"validation": splits.validation, **splits.test}.items():
            for metric, value in task.evaluate(split.evaluation_batches()).items():
                result[f"{name}_{metric}"] = value
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run, runs/NAME")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args()
    with one_line_errors("eval.py"):
        result = evaluate(arguments.run, arguments.device)
    for name, value in result.items():
        print(f"{name:24s} {value:,}" if isinstance(value, int) else f"{name:24s} {value}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
