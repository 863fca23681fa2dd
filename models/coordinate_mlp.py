"""A multi-layer perceptron from coordinates to a value: one network is one image, or one function."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError
from hypernets.errors import require_whole


class CoordinateMLP(nn.Module):
    """Linear layers with ReLU between them, on coordinates and their waves of 1, 2, 4, ... periods in [-1, 1].

    Args:
        inputs: coordinates of a point, and what else is given with them.
        waves: how many of the inputs, from the first, are coordinates that waves are made of.
        frequencies: how many waves; 0 for none.
    """

    def __init__(
        self, inputs: int, hidden_units: Sequence[int], outputs: int = 1, frequencies: int = 0, waves: int | None = None
    ) -> None:
        super().__init__()
        self.frequencies, self.waves = frequencies, inputs if waves is None else waves
        sizes = [inputs + 2 * frequencies * self.waves, *hidden_units, outputs]
        self.layers = nn.ModuleList(nn.Linear(size, after) for size, after in zip(sizes, sizes[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map points [..., inputs] to values [..., outputs]."""
        factors = math.pi * 2.0 ** torch.arange(self.frequencies, device=x.device)
        angles = (x[..., : self.waves, None] * factors).flatten(-2)
        x = torch.cat([x, angles.sin(), angles.cos()], dim=-1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def build(coordinates: int, others: int, hidden_units: list[int], frequencies: int) -> CoordinateMLP:
    """Build the network for points of so many coordinates, and other inputs behind them."""
    if not isinstance(hidden_units, list):
        raise UserError(f"main_net.hidden_units is {hidden_units!r}; it must be a list of sizes, such as [32,32].")
    for size in hidden_units:
        require_whole("each of main_net.hidden_units", size)
    require_whole("main_net.frequencies", frequencies, least=0)
    return CoordinateMLP(coordinates + others, hidden_units, frequencies=frequencies, waves=coordinates)
