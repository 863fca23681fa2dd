"""Evaluate a run's best network (the one that was best on validation) on the validation and test splits.

    python eval.py runs/NAME [--device cpu]
    python eval.py NAME       # the trained network results/weights/NAME.safetensors

Prints the metrics and the parameter count, as text to standard error and as one JSON object to standard output.
"""

import argparse
import json
import sys
from pathlib import Path

from training.command_line import one_line_errors
from training.precision import autocast, set_precision
from training.task import count_trained
from training.trained import load_trained


def evaluate(run: Path, device_name: str) -> dict[str, float | int | str]:
    """Return the metrics of the best network on validation and test, its step and the parameter count."""
    settings, splits, task, step = load_trained(run, device_name)
    result = {"run": run.name, "step": step, "parameters": count_trained(task)}
    device = next(task.parameters()).device
    with autocast(set_precision(settings["precision"], device), device):
        for name, split in (("validation", splits.validation), ("test", splits.test)):
            values = task.evaluate(split.evaluation_batches())
            result |= {f"{name}_{metric}": value for metric, value in values.items()}
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run, or the name of a file in results/weights/")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args()
    with one_line_errors("eval.py"):
        result = evaluate(arguments.run, arguments.device)
    for name, value in result.items():
        print(f"{name:24s} {value:,}" if isinstance(value, int) else f"{name:24s} {value}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
