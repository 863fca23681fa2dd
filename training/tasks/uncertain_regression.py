"""Regression that says how sure it is: a cubic through twenty noisy points, by networks sampled from noise.

Shape legend
    S  samples: networks that are asked
    N  points
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.functions import NOISE, REACH, FunctionSplits, toy_cubic
from hypernets.errors import call_with_settings, require_number, require_whole, without
from models import mlp
from models.sampled_networks import NoiseConditioned, build_sampled
from training.distributed import Processes
from training.task import Metric

SCALE = REACH**3  # of y, so that the network's outputs are of size 1


class UncertainRegression(nn.Module):
    """Negative log-likelihood of points under networks f_s: in training the mean over s, plus the posterior term.

    The noise of the data is known: y ~ N(f_s(x), 9). The prediction is the mixture of all samples.
    """

    metric = Metric("nll", "negative log-likelihood", digits=3, unit=" nats")

    def __init__(self, network: nn.Module, samples: int, posterior: float, points: int) -> None:
        super().__init__()
        require_whole("dataset.samples", samples, least=2 if isinstance(network, NoiseConditioned) else 1)
        require_number("dataset.posterior", posterior, least=0)
        self.network = network
        self.samples, self.posterior, self.points = samples, posterior, points

    def forward(self, batch: tuple[Tensor, Tensor], carried: None) -> tuple[Tensor, None]:
        """Return the loss of points (x [N, 1], y [N, 1]), in nats per point."""
        x, y = batch
        outputs, divergence = self.network(x / REACH, self.samples)
        return _nll(SCALE * outputs, y).mean() + self.posterior * divergence / self.points, carried

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return what a hundred samples predict.

        nll                  of the mixture, in nats per point; "loss" is the same
        coverage             percent of the points within two standard deviations of the prediction; 95 would be right
        spread_inside        standard deviation of f_s, mean over |x| <= 4, where the data is
        spread_outside       the same over 4 < |x| <= 6
        nll_mean_condition   nll of the network for noise 0
        weight_spread        of the weights over the noise
        """
        was_training = self.training
        self.eval()
        try:
            ((x, y),) = batches
            outputs = SCALE * self._predicted(x)
            nll = -(torch.logsumexp(-_nll(outputs, y), dim=0) - math.log(len(outputs))).mean().item()
            deviation = (outputs.var(dim=0, correction=0) + NOISE**2).sqrt()
            covered = ((y - outputs.mean(dim=0)).abs() <= 2 * deviation).float().mean().item()
            values = {"loss": nll, "nll": nll, "coverage": 100 * covered}
            grid = torch.linspace(-1.5 * REACH, 1.5 * REACH, 301, device=x.device)[:, None]
            spread = SCALE * self._predicted(grid).std(dim=0, correction=0)
            inside = grid.abs() <= REACH
            values |= {"spread_inside": spread[inside].mean().item(), "spread_outside": spread[~inside].mean().item()}
            if isinstance(self.network, NoiseConditioned):
                at_zero = SCALE * self.network.of_mean_noise(x / REACH)
                values["nll_mean_condition"] = _nll(at_zero, y).mean().item()
                values["weight_spread"] = self.network.weight_spread()
        finally:
            self.train(was_training)
        return values

    def _predicted(self, x: Tensor) -> Tensor:
        return self.network.sampled(x / REACH, samples=100).float()  # [S, N, 1]

    def pictures(self) -> dict[str, np.ndarray]:
        """No pictures."""
        return {}


def _nll(outputs: Tensor, y: Tensor) -> Tensor:
    """-log N(y; f_s(x), 9), [S, N, 1]."""
    return 0.5 * ((y - outputs) / NOISE).square() + math.log(NOISE) + 0.5 * math.log(2 * math.pi)


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[FunctionSplits, UncertainRegression]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    left_out = ("task", "name", "samples", "posterior")
    dataset = without(settings["dataset"], *left_out)
    splits = call_with_settings(partial(toy_cubic, device=processes.device), "dataset", dataset)
    build_main_network = mlp.builder_for_regression(settings["main_net"])
    torch.manual_seed(settings["seed"])
    network = build_sampled(build_main_network, settings["hypernet"])
    samples, posterior = (settings["dataset"].get(name) for name in ("samples", "posterior"))
    return splits, UncertainRegression(network, samples, posterior, dataset["batch_size"])
