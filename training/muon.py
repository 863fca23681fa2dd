"""Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon): each step follows the orthogonalised momentum."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# a x + b x^3 + c x^5, applied five times, takes every singular value that is not tiny to between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, for parameters with at least two dimensions.

    A parameter with three dimensions, [rows, n, columns], is taken as n matrices, like the W_i of a static
    hypernetwork; one with more is flattened, a convolution kernel to [c_out, c_in f f]. All singular values of a step
    are about lr * sqrt(max(1, rows / columns)). `torch.optim.Muon` takes only two dimensions; for these, both make the
    same steps, but that one rounds them to bfloat16.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], momentum: float) -> None:
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(average, group["momentum"])
                if direction.dim() == 3:
                    update = orthogonalised(direction.transpose(0, 1)).transpose(0, 1)
                else:
                    update = orthogonalised(direction.flatten(1)).view_as(direction)
                parameter.sub_(update, alpha=group["lr"])


def orthogonalised(matrices: Tensor) -> Tensor:
    """For matrices U S V^T, [..., rows, columns], nearly U V^T * sqrt(max(1, rows / columns)): Newton-Schulz."""
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if rows > columns else x) * max(1.0, rows / columns) ** 0.5
