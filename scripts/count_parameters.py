"""Print the parameter counts of the paper's networks beside the printed ones.

Those of the language models are of the networks that configs/experiment/ describes.

python scripts/count_parameters.py
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from hypernets import LearnedKernels, StaticHypernetwork
from models import MNISTConvnet, WideResNet, build_character_model
from scripts.paper_tables import ROWS

PROJECT = Path(__file__).resolve().parent.parent
VOCABULARY_SIZE = {"ptb_char": 50, "enwik8": 205}
NOTE = """
Three counts differ from the printed ones:
  layer_norm_hyperlstm_1000_large_embedding  5.06 M printed. The two-layer row, with N_z = 16 too, agrees: a misprint.
  layer_norm_lstm_1800                       14.82 M printed: cut off, not rounded.
  layer_norm_hyperlstm_1800                  18.78 M printed. Layer norm adds 20,560 to the row above: a misprint."""
MNIST_HYPERNETWORK = partial(StaticHypernetwork, embedding_size=4, projection_size=4)


def count(module: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def rows() -> list[tuple[str, str, int, str]]:
    """(table, network, parameters counted, parameters printed in the paper)."""
    mnist = MNISTConvnet(MNIST_HYPERNETWORK)
    generator = count(mnist.kernel_source) - mnist.kernel_source.embeddings.numel()
    return [
        ("Table 2", "WRN-40-1", count(WideResNet(LearnedKernels, width=1)), "0.563 M"),
        ("Table 2", "Hyper WRN-40-1", count(WideResNet(StaticHypernetwork, width=1)), "0.097 M"),
        ("Table 2", "WRN-40-2", count(WideResNet(LearnedKernels, width=2)), "2.236 M"),
        ("Table 2", "Hyper WRN-40-2", count(WideResNet(StaticHypernetwork, width=2)), "0.148 M"),
        ("Table 7", "MNIST convnet", count(MNISTConvnet(LearnedKernels)), "-"),
        ("Table 7", "Hyper MNIST convnet", count(mnist), "12,910"),
        ("Table 7", "  its generator", generator, "4,240"),
        *(
            (
                f"Table {row.experiment[5]}",
                row.experiment.split("/")[1],
                count_experiment(row.experiment),
                row.parameters,
            )
            for row in ROWS
            if row.experiment.startswith(("table3", "table4"))
        ),
    ]


def count_experiment(experiment: str) -> int:
    """The parameters of the character model of a configured experiment."""
    with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        return count_character_model(hydra.compose("train", [f"experiment={experiment}"]))


def count_character_model(settings: Mapping[str, Any]) -> int:
    """The parameters of the character model of a configuration, which takes no memory here.

    A text that is not the paper's counts as one of as many characters as enwik8 has.
    """
    size = VOCABULARY_SIZE.get(settings["dataset"]["name"], VOCABULARY_SIZE["enwik8"])
    vocabulary = "".join(map(chr, range(size)))  # which characters they are does not matter
    with torch.device("meta"):
        return count(build_character_model(settings["main_net"], settings["hypernet"], vocabulary))


def main() -> None:
    """Print the table."""
    print(f"{'':8s} {'network':42s} {'counted':>12s} {'printed':>12s}")
    for table, name, counted, printed in rows():
        print(f"{table:8s} {name:42s} {counted:12,} {printed:>12s}")
    print(NOTE)


if __name__ == "__main__":
    main()
