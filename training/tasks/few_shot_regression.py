"""Few-shot and zero-shot regression: from ten points of a function, or from its parameters, a network that is it."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.functions import FunctionSplits, SinusoidBatch, nearest_trained, sinusoids
from hypernets import UserError
from hypernets.errors import call_with_settings, require_known, without
from models import coordinate_mlp
from models.conditioned_networks import ConcatenatedCode, GeneratedNetworks
from models.encoders import MeanEncoder
from models.hypernetworks import condition_size_of
from training.distributed import Processes
from training.task import Metric

REACH = 5.0  # of x and y: what the networks see is of size 1


class FewShotRegression(nn.Module):
    """Mean squared error at points of a function of which others were shown, or only the parameters."""

    metric = Metric("mse", "mean squared error", digits=3)

    def __init__(self, network: GeneratedNetworks | ConcatenatedCode, condition: str) -> None:
        super().__init__()
        self.network, self.condition = network, condition

    def encode(self, batch: SinusoidBatch) -> Tensor:
        """The condition of each function."""
        if self.condition == "data":
            return self.network.encoder(batch.shown / REACH)
        amplitude, phase = batch.parameters.unbind(1)
        return torch.stack([amplitude / 2.5 - 1, 2 * phase / math.pi - 1], dim=1) * math.sqrt(3)  # variance 1

    def forward(self, batch: SinusoidBatch, carried: None) -> tuple[Tensor, None]:
        """Return the loss of a batch of functions."""
        predicted = REACH * self.network(batch.x / REACH, self.encode(batch)).float()
        return (predicted - batch.y).square().mean(), carried

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[SinusoidBatch], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return the error, and that of the nearest function that is trained; means over all batches.

        The errors with shuffled and with mean conditions are those of the first batch.
        """
        was_training = self.training
        self.eval()
        values: dict[str, list[float]] = {}
        try:
            for batch in batches:
                conditions = self.encode(batch)

                def error(conditions: Tensor, batch: SinusoidBatch = batch) -> float:
                    predicted = REACH * self.network(batch.x / REACH, conditions).float()
                    return (predicted - batch.y).square().mean().item()

                a, p = nearest_trained(batch.parameters).unbind(1)
                nearest = a[:, None, None] * torch.sin(batch.x - p[:, None, None])
                found = {"mse": error(conditions), "mse_nearest_trained": (nearest - batch.y).square().mean().item()}
                if not values:
                    values = {key: [] for key in found}
                    checks = self.network.check(error, conditions)
                for key, value in found.items():
                    values[key].append(value)
        finally:
            self.train(was_training)
        means = {key: float(np.mean(each)) for key, each in values.items()}
        return {"loss": means["mse"]} | means | checks

    def pictures(self) -> dict[str, np.ndarray]:
        """No pictures."""
        return {}


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[FunctionSplits, FewShotRegression]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    dataset = without(settings["dataset"], "task", "name")
    place = {"seed": settings["seed"], "device": processes.device}
    splits = call_with_settings(partial(sinusoids, **place), "dataset", dataset)
    if settings["main_net"]["kind"] != "coordinate_mlp":
        raise UserError(f"Functions are not networks of main_net={settings['main_net']['kind']}; use coordinate_mlp.")
    hypernet = settings["hypernet"]
    condition = "parameters" if hypernet.get("condition") == "parameters" else "data"
    size = condition_size_of(hypernet, condition)
    main_net = without(settings["main_net"], "kind", "name")
    network = partial(call_with_settings, coordinate_mlp.build, "main_net", main_net, 1)
    torch.manual_seed(settings["seed"])
    is_ready = condition == "parameters" or hypernet.get("condition_is_set")
    encoder = nn.Identity() if is_ready else MeanEncoder(2, size)
    if condition == "parameters" and size != 2:
        raise UserError(f"hypernet.condition_size is {size}, but a function has 2 parameters; set it to 2.")
    if hypernet["kind"] == "none":
        require_known("hypernet", without(hypernet, "kind", "name"), ("condition", "condition_size"))
        return splits, FewShotRegression(ConcatenatedCode(network(size), encoder), condition)
    return splits, FewShotRegression(GeneratedNetworks(network(0), hypernet, encoder), condition)
