"""Train four small networks on the bundled data, and print what the hypernetworks save or gain.

    python scripts/first_results.py [OVERRIDES]

A Wide ResNet on 1,400 images and an LSTM on Shakespeare, each alone and with its hypernetwork, otherwise alike: about
two minutes on two cores. Overrides go to all four runs of train.py, such as logger=none. The runs are far too short to
say anything about the paper's results.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from scripts.training_process import PROJECT, run_training
from training.resume import place_of_runs

IMAGES = ("dataset=cifar10_sample", "main_net=wide_resnet", "main_net.depth=16", "budget.steps=250")
TEXT = ("dataset=shakespeare", "main_net=layer_norm_lstm", "optimizer=adam_clipped", "budget.steps=200")
# Smaller batches make more of the few characters, and parallel streams of the time that testing takes.
TEXT += ("dataset.batch_size=32", "dataset.test_streams=16")
RUNS = [
    (*IMAGES, "hypernet=none"),
    (*IMAGES, "hypernet=static"),
    (*TEXT, "hypernet=none"),
    (*TEXT, "hypernet=hyperlstm"),
]
UNITS = {"error": "% error", "bits_per_character": "bits per character"}


def train(arguments: tuple[str, ...], runs: Path) -> dict:
    """Run train.py in the checkout with a command line; return the result that it wrote under `runs`."""
    before = set(runs.glob("*/result.json"))
    run_training(arguments)
    (written,) = set(runs.glob("*/result.json")) - before
    return json.loads(written.read_text())


def row(result: dict) -> tuple[str, str, str, str, str]:
    """Data set, main network, hypernetwork, parameters and the metric on the test split, as text."""
    settings = result["settings"]
    metric = next(name for name in UNITS if f"test_{name}" in result)
    return (
        settings["dataset"]["name"],
        settings["main_net"]["label"],
        settings["hypernet"]["name"],
        f"{result['parameters']:,}",
        f"{result[f'test_{metric}']:.2f} {UNITS[metric]}",
    )


def main() -> None:
    """Train, then print the table."""
    overrides = tuple(sys.argv[1:])
    runs = PROJECT / place_of_runs(overrides)
    rows = [row(train((*arguments, *overrides), runs)) for arguments in RUNS]
    for cells in [("data set", "main network", "hypernetwork", "parameters", "test"), *rows]:
        print(f"{cells[0]:16s}{cells[1]:22s}{cells[2]:14s}{cells[3]:>12s}   {cells[4]}")


if __name__ == "__main__":
    main()
