"""Optimizers by the `kind` of their configuration; the schedule sets their learning rate at every step.

None of them decays weights: the paper's L2 penalty is on the kernels as the network uses them, so it is part of the
loss (training/tasks/image_classification.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hypernets import UserError
from hypernets.errors import call_with_settings, require_number
from training.muon import Muon


def sgd(parameters: Mapping[str, nn.Parameter], momentum: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum (Table 8); fused like Adam."""
    require_number("optimizer.momentum", momentum, least=0, below=1)
    return torch.optim.SGD(parameters.values(), lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=True)


def adam(parameters: Mapping[str, nn.Parameter], betas: list[float], rate_factor: float = 1.0) -> torch.optim.Adam:
    """Adam (Table 9 and section 4.3); the fused kernel updates all parameters in one pass, on the CPU too."""
    if not isinstance(betas, list) or len(betas) != 2:
        raise UserError(f"optimizer.betas is {betas!r}; Adam needs two numbers, such as [0.9,0.999].")
    for beta in betas:
        require_number("optimizer.betas", beta, least=0, below=1)
    group = {"params": list(parameters.values()), "rate_factor": rate_factor}
    return torch.optim.Adam([group], lr=0.0, betas=tuple(betas), fused=True)


class Together:
    """Several optimizers as one, each with parameters of its own."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let every optimizer clear its gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """Let every optimizer take a step."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of all, for a checkpoint."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the states of all."""
        for optimizer, its_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)


def muon(parameters: Mapping[str, nn.Parameter], momentum: float, betas: list[float], adam_rate: float) -> Together:
    """Muon for every weight with at least two dimensions, Adam for the others and for biases.

    Adam's learning rate is `adam_rate` times the schedule's, which is Muon's.
    """
    require_number("optimizer.momentum", momentum, least=0, below=1)
    require_number("optimizer.adam_rate", adam_rate, above=0)
    # A generator's biases may have two dimensions; orthogonal steps soon add the same large part to all weights.
    matrices = {name: each for name, each in parameters.items() if each.dim() >= 2 and not name.endswith("bias")}
    others = {name: each for name, each in parameters.items() if name not in matrices}
    return Together(Muon([{"params": list(matrices.values())}], momentum), adam(others, betas, adam_rate))


OPTIMIZERS = {"sgd": sgd, "adam": adam, "muon": muon}


def build_optimizer(network: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer | Together:
    """Build the optimizer that the configuration group describes, for all parameters of a module.

    A group of parameters may have a `rate_factor`; its learning rate is the schedule's times that.
    """
    kind = settings["kind"]
    if kind not in OPTIMIZERS:
        raise UserError(f"optimizer.kind is {kind!r}; it must be one of {', '.join(OPTIMIZERS)}.")
    others = {key: value for key, value in settings.items() if key != "kind"}
    return call_with_settings(OPTIMIZERS[kind], "optimizer", others, dict(network.named_parameters()))
