"""The fully connected network of appendix A.1, whose first weight matrix may be generated (Figure 8)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError
from hypernets.errors import require_whole


class FullyConnected(nn.Module):
    """One hidden layer of ReLU units on a square grid, then a linear classifier: 784-256-10 for MNIST.

    The weights of the hidden layer have the axes [unit row, unit column, pixel row, pixel column], those of the grid
    and of the image. So each unit has a picture, and a weight's indices are the coordinates that the paper's
    hypernetwork reads. As a matrix they are [256, 784].
    """

    def __init__(self, side: int = 28, grid: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(grid, grid, side, side))
        self.hidden_bias = nn.Parameter(torch.zeros(grid * grid))
        nn.init.normal_(self.hidden_weight, std=math.sqrt(2 / side**2))  # He et al., for the ReLU behind it
        self.classifier = nn.Linear(grid * grid, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 1, side, side]; return logits [B, num_classes]."""
        weight = self.hidden_weight.flatten(2).flatten(0, 1)  # [units, pixels]
        return self.classifier(F.relu(F.linear(images.flatten(1), weight, self.hidden_bias)))


def build(image_shape: tuple[int, int, int], num_classes: int, hidden_size: int) -> FullyConnected:
    """Build the network for square grey images; the hidden units must fill a square grid."""
    channels, height, width = image_shape
    if channels != 1 or height != width:
        raise UserError(
            f"The fully connected network takes square grey images, but this data set has {channels} channels of "
            f"{height}x{width}; choose another main_net, or dataset=mnist."
        )
    require_whole("main_net.hidden_size", hidden_size)
    if math.isqrt(hidden_size) ** 2 != hidden_size:
        raise UserError(f"main_net.hidden_size is {hidden_size}; it must be a square number, such as 256.")
    return FullyConnected(height, math.isqrt(hidden_size), num_classes)
