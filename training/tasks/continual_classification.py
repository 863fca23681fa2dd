"""Continual learning: a sequence of classification tasks, one after another, that a network must not forget.

Shape legend
    T  tasks
    B  images in a batch
    K  classes of each task
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.build import build_tasks
from data.task_sequences import TaskBatch, TaskSplits
from hypernets.errors import without
from models.task_networks import FineTuned, Separate, TaskConditioned, build_for_tasks
from training.distributed import Processes
from training.task import Metric
from training.tasks.image_classification import main_network_builder


class ContinualClassification(nn.Module):
    """Cross-entropy on the task at hand; the metric is the mean error over all tasks, of which the network is told."""

    metric = Metric("error", "error", digits=2, unit=" %")

    def __init__(self, network: TaskConditioned | Separate | FineTuned, tasks: int) -> None:
        super().__init__()
        self.network = network
        self.tasks = tasks

    def forward(self, batch: TaskBatch, carried: None) -> tuple[Tensor, None]:
        """Return the loss of a batch of one task: cross-entropy in nats plus the penalty of earlier tasks."""
        logits, penalty = self.network(batch.inputs, batch.task)
        return F.cross_entropy(logits, batch.targets) + penalty, carried

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[TaskBatch], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return the loss in nats and errors in percent, means over the tasks; of tasks not yet learned, too.

        error                     each image by the network of its task
        error_task_inferred       by the network whose prediction has the least entropy, and that must be of its task
        error_shuffled_condition  by the network of the next task, that of the first in place of the last
        error_mean_condition      by the network that is generated from the mean of the embeddings
        weight_spread             of the generated weights over the tasks
        error_task_1 ...          the error of each task
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        kinds = ("loss", "error", "error_task_inferred", "error_shuffled_condition", "error_mean_condition", "images")
        sums = torch.zeros(self.tasks, len(kinds), dtype=torch.float64, device=device)
        try:
            networks = self.network.networks()
            for task, images, labels in batches:
                logits = torch.stack([network(images).float() for network in networks])  # [T, B, K]
                wrong = logits.argmax(dim=2) != labels
                right, next_one = (task, (task + 1) % self.tasks) if len(networks) > 1 else (0, 0)
                loss = F.cross_entropy(logits[right], labels, reduction="sum")
                log_p = logits[: self.tasks].log_softmax(dim=2)
                entropy = -(log_p.exp() * log_p).sum(dim=2)  # [T, B]
                inferred_wrong = wrong[right] | (entropy.argmin(dim=0) != right)
                counts = [wrong[right], inferred_wrong, wrong[next_one], wrong[-1]]
                sums[task] += torch.stack([loss, *(count.sum() for count in counts), loss.new_tensor(len(labels))])
        finally:
            self.train(was_training)
        sums = total(sums)
        means = sums[:, :-1] / sums[:, -1:]
        values = dict(zip(kinds, means.mean(dim=0).tolist(), strict=False))
        values |= {f"error_task_{task + 1}": error for task, error in enumerate(means[:, 1].tolist())}
        if len(networks) == 1:
            del values["error_task_inferred"], values["error_shuffled_condition"]
        values = {name: value if name == "loss" else 100 * value for name, value in values.items()}
        if isinstance(self.network, TaskConditioned):
            values["weight_spread"] = self.network.weight_spread()
        else:
            del values["error_mean_condition"]
        return values

    def pictures(self) -> dict[str, np.ndarray]:
        """No pictures."""
        return {}


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[TaskSplits, ContinualClassification]:
    """Build the splits and the task from the settings of a run."""
    processes.require_one(settings["dataset"]["task"])
    dataset = without(settings["dataset"], "task", "name")
    beta = dataset.pop("beta", 0.0)
    splits = build_tasks(dataset, seed=settings["seed"], **vars(processes))
    build_main_network = main_network_builder(settings, splits.image_shape, splits.num_classes)
    torch.manual_seed(settings["seed"])
    network = build_for_tasks(build_main_network, settings["hypernet"], splits.tasks, beta)
    return splits, ContinualClassification(network, splits.tasks)
