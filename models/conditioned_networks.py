"""A network for each example, conditioned on what an encoder says of it.

Shape legend
    B  examples
    P  points that each network is asked for
    D  coordinates of a point
    C  condition size; [B, C] is [B, M, C] where a condition is a set of M tokens
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypernets import does_the_condition_matter
from hypernets.condition_check import mean, shuffled
from models.hypernetworks import generate_weights


class GeneratedNetworks(nn.Module):
    """A hypernetwork generates all weights of the network of each example."""

    def __init__(self, main_network: nn.Module, hypernet: Mapping[str, Any], encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = generate_weights(main_network, hypernet)

    def forward(self, points: Tensor, conditions: Tensor) -> Tensor:
        """Ask the network of each example for points [B, P, D], or all for the points [P, D]; return [B, P, 1]."""
        call = self.network.ensemble if points.dim() == 2 else self.network.per_example
        return call(points, conditions)

    def check(self, mse: Callable[[Tensor], float], conditions: Tensor) -> dict[str, float]:
        """What becomes of a squared error for shuffled conditions and for their mean; the spread of the weights."""
        found = does_the_condition_matter(self.network, mse, conditions)
        errors = {"mse_shuffled_condition": found.shuffled, "mse_mean_condition": found.mean}
        return {**errors, "weight_spread": found.spread}


class ConcatenatedCode(nn.Module):
    """The control: one network, which reads the code of the example behind the coordinates of each point."""

    def __init__(self, network: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.network = encoder, network

    def forward(self, points: Tensor, conditions: Tensor) -> Tensor:
        """Ask for points [B, P, D], or for the points [P, D] of every example; return [B, P, 1]."""
        points = points.expand(len(conditions), *points.shape[-2:])
        codes = conditions.unsqueeze(1).expand(-1, points.shape[1], -1)
        return self.network(torch.cat([points, codes], dim=2))

    def check(self, mse: Callable[[Tensor], float], conditions: Tensor) -> dict[str, float]:
        """What becomes of a squared error for shuffled conditions and for their mean."""
        return {"mse_shuffled_condition": mse(shuffled(conditions)), "mse_mean_condition": mse(mean(conditions))}
