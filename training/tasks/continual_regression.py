"""Continual learning in one dimension: three polynomials, one after another, that a network must not forget.

Shape legend
    B  points in a batch
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.functions import POLYNOMIALS, FunctionSplits, three_polynomials
from data.task_sequences import TaskBatch
from hypernets.errors import call_with_settings, without
from models import mlp
from models.task_networks import FineTuned, Separate, TaskConditioned, build_for_tasks
from training.distributed import Processes
from training.task import Metric

TASKS = len(POLYNOMIALS)


class ContinualRegression(nn.Module):
    """Squared error on the task at hand; the metric is its mean over all tasks, of which the network is told."""

    metric = Metric("mse", "mean squared error", digits=5)

    def __init__(self, network: TaskConditioned | Separate | FineTuned) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: TaskBatch, carried: None) -> tuple[Tensor, None]:
        """Return the loss of a batch of one task: mean squared error plus the penalty of earlier tasks."""
        predicted, penalty = self.network(batch.inputs, batch.task)
        return (predicted.float() - batch.targets).square().mean() + penalty, carried

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[TaskBatch], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return mean squared errors, means over the tasks; of tasks not yet learned, too.

        mse                     each point by the network of its task; "loss" is the same
        mse_shuffled_condition  by the network of the next task, that of the first in place of the last
        mse_mean_condition      by the network that is generated from the mean of the embeddings
        weight_spread           of the generated weights over the tasks
        mse_task_1 ...          the error of each task
        """
        was_training = self.training
        self.eval()
        try:
            networks = self.network.networks()
            errors = [[(network(x).float() - y).square().mean().item() for network in networks] for _, x, y in batches]
        finally:
            self.train(was_training)
        known = [of_task[task if len(networks) > 1 else 0] for task, of_task in enumerate(errors)]
        values = {"loss": float(np.mean(known)), "mse": float(np.mean(known))}
        if len(networks) > 1:
            next_one = [of_task[(task + 1) % TASKS] for task, of_task in enumerate(errors)]
            values["mse_shuffled_condition"] = float(np.mean(next_one))
        if isinstance(self.network, TaskConditioned):
            values["mse_mean_condition"] = float(np.mean([of_task[-1] for of_task in errors]))
            values["weight_spread"] = self.network.weight_spread()
        return values | {f"mse_task_{task + 1}": error for task, error in enumerate(known)}

    def pictures(self) -> dict[str, np.ndarray]:
        """No pictures."""
        return {}


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[FunctionSplits, ContinualRegression]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    dataset = without(settings["dataset"], "task", "name")
    beta = dataset.pop("beta", 0.0)
    splits = call_with_settings(partial(three_polynomials, device=processes.device), "dataset", dataset)
    build_main_network = mlp.builder_for_regression(settings["main_net"])
    torch.manual_seed(settings["seed"])
    return splits, ContinualRegression(build_for_tasks(build_main_network, settings["hypernet"], TASKS, beta))
