"""Train four small networks on the bundled data, and print what the hypernetworks save or gain.

    python -m scripts.first_results [OVERRIDES]

A Wide ResNet on 1,400 images and an LSTM on Shakespeare, each with and without a hypernetwork: about two minutes on two
cores. Overrides go to all four runs of train.py, such as logger=none. The runs are far too short to say anything
about the paper's results.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.record_result import TASK_METRICS
from scripts.train_command import run_training
from training.command_line import one_line_errors, place_of_runs
from training.run import RESULT, read_result

IMAGES = ("dataset=cifar10_sample", "main_net=wide_resnet", "main_net.depth=16", "steps=250")
# Smaller batches make more of the few characters, and parallel streams shorten the test.
TEXT = ("dataset=shakespeare", "dataset.batch_size=32", "dataset.test_streams=16", "main_net=layer_norm_lstm")
TEXT += ("main_net.hidden_size=128", "steps=200", "schedule.peak=0.02", "gradient_clip=1.0")
RUNS = (
    (*IMAGES, "hypernet=none"),
    (*IMAGES, "hypernet=static"),
    (*TEXT, "hypernet=none"),
    (*TEXT, "hypernet=hyperlstm", "hypernet.hyper_size=64"),
)


def train(command: Sequence[str], runs: Path) -> dict[str, Any]:
    """Run train.py with a command line; return the result that it wrote under `runs`."""
    before = set(runs.glob(f"*/{RESULT}"))
    run_training(command)
    (written,) = set(runs.glob(f"*/{RESULT}")) - before
    return read_result(written.parent)


def cells(result: dict[str, Any]) -> tuple[str, ...]:
    """Data set, main network, hypernetwork, parameters and the metric on the test split, as text."""
    names = [result["settings"][group]["name"] for group in ("dataset", "main_net", "hypernet")]
    metric = next(metric for key, metric in TASK_METRICS.items() if f"test_{key}" in result)
    tested = f"{result[f'test_{metric.key}']:.{metric.digits}f}{metric.unit} {metric.title}"
    return (*names, f"{result['parameters']:,}", tested)


def main() -> None:
    """Train, then print the table."""
    with one_line_errors("first_results"):
        overrides = sys.argv[1:]
        rows = [cells(train((*command, *overrides), place_of_runs(overrides))) for command in RUNS]
        for row in [("data set", "main network", "hypernetwork", "parameters", "test"), *rows]:
            print(f"{row[0]:16s}{row[1]:22s}{row[2]:14s}{row[3]:>12s}   {row[4]}")


if __name__ == "__main__":
    main()
