"""A multi-layer perceptron on the pixels of an image."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError
from hypernets.errors import call_with_settings, require_number, require_whole, without


class MLP(nn.Module):
    """Linear layers with ReLU between them, and dropout after each ReLU."""

    def __init__(self, inputs: int, hidden_units: Sequence[int], outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [inputs, *hidden_units, outputs]
        self.layers = nn.ModuleList(nn.Linear(size, after) for size, after in zip(sizes, sizes[1:], strict=False))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, ...], flattened to [B, inputs], to [B, outputs]."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.dropout(F.relu(layer(x)))
        return self.layers[-1](x)


def build(image_shape: tuple[int, int, int], num_classes: int, hidden_units: list[int], dropout: float = 0.0) -> MLP:
    """Build the network for images (C, H, W)."""
    if not isinstance(hidden_units, list):
        raise UserError(f"main_net.hidden_units is {hidden_units!r}; it must be a list of sizes, such as [300,100].")
    for size in hidden_units:
        require_whole("each of main_net.hidden_units", size)
    require_number("main_net.dropout", dropout, least=0, below=1)
    channels, height, width = image_shape
    return MLP(channels * height * width, hidden_units, num_classes, dropout)


def builder_for_regression(main_net: Mapping[str, Any]) -> Callable[[], MLP]:
    """Return a function that builds a network from one number to another; raise UserError if it is not an MLP."""
    if main_net["kind"] != "mlp":
        raise UserError(f"There is no regression with main_net={main_net['kind']}; choose main_net=mlp.")
    return partial(call_with_settings, build, "main_net", without(main_net, "kind", "name"), (1, 1, 1), 1)
