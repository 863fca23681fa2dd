"""Encoders: from data to a condition, whose entries have a mean square of 1.

Shape legend
    B  examples
    M  points of a set
    T  size of a point
    C  condition size
"""

import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError

UNITS = 128


def _require_size(condition_size: int) -> None:
    if condition_size < 3:
        raise UserError(
            f"hypernet.condition_size is {condition_size}, but an encoder ends in a layer norm, which leaves nothing "
            "of one entry and only a sign of two; set it to at least 3."
        )


class VectorEncoder(nn.Module):
    """Data of a fixed size, such as an image, through one hidden layer: [B, ...] -> [B, C]."""

    def __init__(self, size: int, condition_size: int) -> None:
        super().__init__()
        _require_size(condition_size)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, UNITS), nn.ReLU(), nn.Linear(UNITS, condition_size))

    def forward(self, data: Tensor) -> Tensor:
        """Encode each example."""
        codes = self.layers(data)
        return F.layer_norm(codes, codes.shape[-1:])


class MeanEncoder(nn.Module):
    """Sets of points, each through one hidden layer, and their mean (Zaheer et al. 2017): [B, M, T] -> [B, C]."""

    def __init__(self, point_size: int, condition_size: int) -> None:
        super().__init__()
        _require_size(condition_size)
        self.of_point = nn.Sequential(nn.Linear(point_size, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU())
        self.of_mean = nn.Linear(UNITS, condition_size)

    def forward(self, points: Tensor) -> Tensor:
        """Encode each set; the order of its points does not matter."""
        codes = self.of_mean(self.of_point(points).mean(dim=-2))
        return F.layer_norm(codes, codes.shape[-1:])
