"""Optimizers by name; their learning rate is set at every step from the schedule."""

from collections.abc import Iterable

import torch
from torch import nn


def check_gradient_clip(largest_norm: float | None) -> None:
    """Refuse what cannot be the largest norm of a gradient.

    Raises:
        ValueError: it is neither None nor a number above 0.
    """
    is_number = isinstance(largest_norm, (int, float)) and not isinstance(largest_norm, bool)
    if largest_norm is not None and not (is_number and largest_norm > 0):
        raise ValueError(f"optimizer.gradient_clip is {largest_norm!r}; it must be a number above 0, or null.")


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    name: str,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum ("sgd", Table 8) or Adam ("adam", Table 9 and section 4.3).

    Neither decays weights: the L2 penalty of the paper is on the kernels as the network uses them and so part of the
    loss (training/tasks.py).

    Raises:
        ValueError: an unknown name, or betas that are not two.
    """
    if len(betas) != 2:
        raise ValueError(f"optimizer.betas is {list(betas)}; Adam needs two numbers.")
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.0, momentum=momentum, nesterov=momentum > 0)
    if name == "adam":
        # The fused kernel updates all parameters in one pass, on the CPU too.
        return torch.optim.Adam(parameters, lr=0.0, betas=tuple(betas), fused=True)
    raise ValueError(f"There is no optimizer {name!r}; choose sgd or adam.")
