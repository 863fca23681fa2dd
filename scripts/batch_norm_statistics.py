"""Validate the newest checkpoint of image classifiers with other statistics of batch norm than the running ones.

    python scripts/batch_norm_statistics.py runs/NAME [...] [--batches 30] [--device cpu]

The running statistics average over training steps, each with other weights. A second validation recomputes them over
training batches with the checkpoint's weights alone; where its error is much lower, the running ones lag behind the
weights. Prints one JSON object for each run, also for one that is still being trained. What is kept of them in
results/batch_norm_statistics.jsonl, one a line, stands on the page of its table.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.swa_utils import update_bn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from eval import load_run
from training.command_line import one_line_errors
from training.precision import autocast, resolve_precision
from training.provenance import commit, hardware


def validate_twice(run: Path, batches: int, device_name: str) -> dict[str, Any]:
    """Return where the run stands, and the loss (nats) and error (percent) on validation with either statistics.

    Args:
        run: the run directory.
        batches: training batches that the recomputed statistics average over, at most an epoch.
        device_name: auto, cpu or cuda.

    Raises:
        ValueError, FileNotFoundError: as `load_run`; the network has no batch norm; or `batches` is out of range.
    """
    settings, splits, task, step = load_run(run, device_name, newest=True)
    if not any(isinstance(module, nn.BatchNorm2d) for module in task.modules()):
        raise ValueError(f"The run {run} is of {settings['main_net']['name']!r}, which has no batch norm.")
    epoch = splits.train.steps_per_epoch
    if not 1 <= batches <= epoch:
        raise ValueError(f"--batches is {batches}; it must be 1 to {epoch}, the training batches of an epoch.")
    device = next(task.parameters()).device
    precision = resolve_precision(settings["precision"], device)
    with autocast(precision, device):
        running = task.evaluate(splits.validation.evaluation_batches())
        update_bn((splits.train.batch(step + index) for index in range(batches)), task.main_network)
        recomputed = task.evaluate(splits.validation.evaluation_batches())
    return {
        "run": run.name,
        "table": settings["table"],
        "network": settings["main_net"]["label"],
        "hypernet": settings["hypernet"]["name"],
        "step": step,
        "steps": settings["budget"]["steps"],
        "batches": batches,
        "running": running,
        "recomputed": recomputed,
        "precision": str(precision).removeprefix("torch."),
        "hardware": hardware(device, 1),
        "commit": commit(),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args()
    with one_line_errors("batch_norm_statistics.py"):
        for run in arguments.runs:
            print(json.dumps(validate_twice(run, arguments.batches, arguments.device)), flush=True)


if __name__ == "__main__":
    main()
