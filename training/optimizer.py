"""Optimizers by the `kind` of their configuration; the schedule sets their learning rate at every step.

None of them decays weights: the paper's L2 penalty is on the kernels as the network uses them, so it is part of the
loss (training/tasks/image_classification.py).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from hypernets import UserError
from hypernets.errors import call_with_settings, require_number


def sgd(parameters: Iterable[nn.Parameter], momentum: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum (Table 8)."""
    require_number("optimizer.momentum", momentum, least=0, below=1)
    return torch.optim.SGD(parameters, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def adam(parameters: Iterable[nn.Parameter], betas: list[float]) -> torch.optim.Adam:
    """Adam (Table 9 and section 4.3); the fused kernel updates all parameters in one pass, on the CPU too."""
    if not isinstance(betas, list) or len(betas) != 2:
        raise UserError(f"optimizer.betas is {betas!r}; Adam needs two numbers, such as [0.9,0.999].")
    for beta in betas:
        require_number("optimizer.betas", beta, least=0, below=1)
    return torch.optim.Adam(parameters, lr=0.0, betas=tuple(betas), fused=True)


OPTIMIZERS = {"sgd": sgd, "adam": adam}


def build_optimizer(parameters: Iterable[nn.Parameter], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Build the optimizer that the configuration group describes."""
    kind = settings["kind"]
    if kind not in OPTIMIZERS:
        raise UserError(f"optimizer.kind is {kind!r}; it must be one of {', '.join(OPTIMIZERS)}.")
    others = {key: value for key, value in settings.items() if key != "kind"}
    return call_with_settings(OPTIMIZERS[kind], "optimizer", others, list(parameters))
