"""Print the parameter counts of the paper's networks beside the printed ones.

python scripts/count_parameters.py
"""

import sys
from functools import partial
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from hypernets import LearnedKernels, StaticHypernetwork
from models import MNISTConvnet, WideResNet

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
    ]


def main() -> None:
    """Print the table."""
    print(f"{'':8s} {'network':22s} {'counted':>12s} {'printed':>12s}")
    for table, name, counted, printed in rows():
        print(f"{table:8s} {name:22s} {counted:12,} {printed:>12s}")


if __name__ == "__main__":
    main()
