"""Print the parameter counts of the paper's networks, as configs/experiment/ describes them, beside the printed ones.

python -m scripts.count_parameters
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hypernets.errors import without
from models import IMAGE_CLASSIFIERS, character_model, encoder_decoder, handwriting_model
from models.hypernetworks import generate_weights
from scripts.paper_tables import ROWS
from scripts.train_command import compose

IMAGE_SHAPE = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28)}
VOCABULARY_SIZE = {"ptb_char": 50, "enwik8": 205}
NOTE = """
Three counts differ from the printed ones:
  layer_norm_hyperlstm_1000_large_embedding  5.06 M printed. The two-layer row, with N_z = 16 too, agrees: a misprint.
  layer_norm_lstm_1800                       14.82 M printed: cut off, not rounded.
  layer_norm_hyperlstm_1800                  18.78 M printed. Layer norm adds 20,560 to the row above: a misprint.
The counts of Table 5 say that the layers read three numbers and that no connection skips a layer."""


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """The network of an experiment, without its data set."""
    dataset, task = settings["dataset"]["name"], settings["dataset"]["task"]
    if task == "handwriting":
        with torch.device("meta"):
            return handwriting_model.build(settings["main_net"], settings["hypernet"], mean=[0, 0], std=[1, 1])
    if task == "character_modelling":
        vocabulary = "".join(map(chr, range(VOCABULARY_SIZE[dataset])))  # which characters they are does not matter
        with torch.device("meta"):
            return character_model.build(settings["main_net"], settings["hypernet"], vocabulary)
    if settings["dataset"]["task"] == "translation":
        main_net = {key: value for key, value in settings["main_net"].items() if key != "label_smoothing"}
        with torch.device("meta"):
            return encoder_decoder.build(
                main_net, settings["hypernet"], settings["dataset"]["vocabulary_size"], padding=0
            )
    main_net = without(settings["main_net"], "kind", "name", "kernel_decay")
    network = IMAGE_CLASSIFIERS[settings["main_net"]["kind"]](IMAGE_SHAPE[dataset], 10, **main_net)
    return generate_weights(network, settings["hypernet"])


def count(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    """Print the table."""
    print(f"{'':57s}{'counted':>12s} {'printed':>12s}")
    for row in ROWS:
        network = build_network(compose([f"experiment={row.experiment}"]))
        print(f"{row.experiment:57s}{count(network):12,} {row.parameters:>12s}")
    generator = count(network.hypernetwork) - network.hypernetwork.embeddings.numel()  # of the last row
    print(f"{'  its generator, without the embedding':57s}{generator:12,} {'4,240':>12s}")
    print(NOTE)


if __name__ == "__main__":
    main()
