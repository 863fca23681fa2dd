"""Several networks for one prediction: sampled by a hypernetwork from noise, members of an ensemble, or dropout's.

Shape legend
    S  samples: networks that are asked
    B  examples
    K  outputs of the main network
    N  size of the noise
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hypernets import HyperDNN
from hypernets.condition_check import weight_spread
from hypernets.errors import call_with_settings, require_whole, without
from models.hypernetworks import condition_size_of, generate_weights, require_no_running_statistics


class NoiseConditioned(nn.Module):
    """A hypernetwork that turns noise into the weights of a network, and the term that keeps them from collapsing.

    Trained on likelihood only, all noise comes to give the same weights. With the posterior term the loss is a
    variational bound: the Kullback-Leibler divergence of the generated weights from a prior, here of a diagonal
    Gaussian that has the mean m and variance v of each weight over the S samples, at least two (moment matching: an
    implicit distribution has no density). The prior is how the main network initialises itself: N(0, s^2) with the
    standard deviation s of the weights of each layer.

        sum over weights of   log(s / sqrt(v)) + (v + m^2) / (2 s^2) - 1 / 2
    """

    def __init__(self, main_network: nn.Module, hypernet: Mapping[str, Any]) -> None:
        super().__init__()
        self.noise_size = condition_size_of(hypernet, "noise")
        require_no_running_statistics(main_network, "noise")
        prior = {
            name: nn.utils.parameters_to_vector(module.parameters(recurse=False)).detach().std(correction=0)
            for name, module in main_network.named_modules()
            if list(module.parameters(recurse=False))
        }
        self.network: HyperDNN = generate_weights(main_network, hypernet)
        self.prior = {name: float(prior[name.rpartition(".")[0]]) for name in self.network.shapes}

    def forward(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Return outputs [S, B, K] and the posterior term, a scalar in nats."""
        noise = torch.randn(samples, self.noise_size, device=x.device)
        weights = self.network.weights(noise)
        return self._outputs(x, weights), self.divergence(weights)

    def divergence(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The posterior term of weights [S, ...]."""
        total = 0.0
        for name, weight in weights.items():
            prior = self.prior[name] ** 2
            variance, mean = torch.var_mean(weight.float(), dim=0)
            ratio = (variance + 1e-12) / prior
            total = total + 0.5 * (ratio + mean.square() / prior - 1 - ratio.log()).sum()
        return total

    def sampled(self, x: Tensor, samples: int) -> Tensor:
        """Outputs [S, B, K] for evaluation, of the same noise in every call."""
        return self._outputs(x, self.network.weights(self._noise(samples).to(x.device)))

    def weight_spread(self) -> float:
        """How much the weights differ between samples (see `does_the_condition_matter`).

        No noise is the right one for an example, so there is none to be shuffled.
        """
        return weight_spread(self.network, self._noise(100).to(next(self.parameters()).device))

    def _noise(self, samples: int) -> Tensor:
        return torch.randn(samples, self.noise_size, generator=torch.Generator().manual_seed(0))

    def of_mean_noise(self, x: Tensor) -> Tensor:
        """Outputs [1, B, K] of the network for noise 0: what the noise adds shows beside it."""
        return self._outputs(x, self.network.weights(x.new_zeros(1, self.noise_size)))

    def _outputs(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        each = ({name: weight[index] for name, weight in weights.items()} for index in range(_length(weights)))
        return torch.stack([self.network.forward_with(own, x) for own in each])


class Ensemble(nn.Module):
    """Plain networks that differ in their initialisation (Lakshminarayanan et al. 2017)."""

    def __init__(self, build: Callable[[], nn.Module], members: int) -> None:
        super().__init__()
        require_whole("hypernet.members", members)
        self.members = nn.ModuleList(build() for _ in range(members))

    def forward(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Return outputs [S, B, K] of all members, and no posterior term."""
        return torch.stack([member(x) for member in self.members]), x.new_zeros(())

    def sampled(self, x: Tensor, samples: int) -> Tensor:
        """Outputs of all members."""
        return self(x, samples)[0]


class Dropout(nn.Module):
    """One plain network whose dropout also acts in evaluation (Gal and Ghahramani 2016)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Return outputs [1, B, K] and no posterior term."""
        return self.network(x)[None], x.new_zeros(())

    def sampled(self, x: Tensor, samples: int) -> Tensor:
        """Outputs [S, B, K] for evaluation, of the same masks in every call."""
        dropouts = [module for module in self.network.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
        modes = [module.training for module in dropouts]
        devices = [x.device] if x.device.type == "cuda" else []
        try:
            for module in dropouts:  # only these: batch norm in training mode would change its statistics
                module.train()
            with torch.random.fork_rng(devices):
                torch.manual_seed(0)
                return torch.stack([self.network(x) for _ in range(samples)])
        finally:
            for module, mode in zip(dropouts, modes, strict=True):
                module.train(mode)


def build_sampled(build: Callable[[], nn.Module], hypernet: Mapping[str, Any]) -> nn.Module:
    """Networks to sample from, by the `kind` of the hypernetwork: "none" for dropout, "separate" for an ensemble."""
    own = without(hypernet, "kind", "name")
    if hypernet["kind"] == "none":
        return call_with_settings(lambda: Dropout(build()), "hypernet", own)
    if hypernet["kind"] == "separate":
        return call_with_settings(partial(Ensemble, build), "hypernet", own)
    return NoiseConditioned(build(), hypernet)


def _length(weights: Mapping[str, Tensor]) -> int:
    return len(next(iter(weights.values())))
