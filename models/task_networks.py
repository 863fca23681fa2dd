"""Networks for a sequence of tasks (continual learning): one hypernetwork, a network for each task, or one for all.

Shape legend
    B  examples in a batch
    K  outputs
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hypernets import HyperDNN, OutputRegulariser
from hypernets.condition_check import weight_spread
from hypernets.errors import call_with_settings, require_number, without
from models.hypernetworks import condition_size_of, generate_weights, require_no_running_statistics


class TaskConditioned(nn.Module):
    """A hypernetwork with a learned embedding of each task, from which it generates a network for the task.

    Each embedding is a parameter of its own and is only trained with its task. The output regulariser, with the
    weight `beta`, holds the hypernetwork to what it generated for earlier tasks.
    """

    def __init__(self, network: HyperDNN, tasks: int, beta: float) -> None:
        super().__init__()
        self.network = network
        self.embeddings = nn.ParameterList(torch.randn(network.hypernetwork.condition_size) for _ in range(tasks))
        self.regulariser = OutputRegulariser(network)
        self.beta = beta

    def forward(self, inputs: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, K] for a training batch, and the penalty, a scalar."""
        earlier = list(self.embeddings[:task]) if self.beta else []
        if len(self.regulariser.remembered) != len(earlier):  # the first step of a task
            self.regulariser.remember(self.network, earlier)
        outputs = self.network(inputs, condition=self.embeddings[task])
        return outputs, self.beta * self.regulariser(self.network, earlier)

    def networks(self) -> list[Callable[[Tensor], Tensor]]:
        """The network of each task; behind them that of the mean embedding. Their weights are generated only once."""
        embeddings = torch.stack(list(self.embeddings))
        weights = self.network.weights(torch.cat([embeddings, embeddings.mean(dim=0, keepdim=True)]))
        return [
            partial(self.network.forward_with, {name: weight[index] for name, weight in weights.items()})
            for index in range(len(embeddings) + 1)
        ]

    def weight_spread(self) -> float:
        """How much the weights differ between the tasks (see `does_the_condition_matter`)."""
        return weight_spread(self.network, torch.stack(list(self.embeddings)))


class Separate(nn.Module):
    """A network for each task: nothing is shared, so nothing is forgotten."""

    def __init__(self, build_network: Callable[[], nn.Module], tasks: int) -> None:
        super().__init__()
        self.of_task = nn.ModuleList(build_network() for _ in range(tasks))

    def forward(self, inputs: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, K] for a training batch, and no penalty."""
        return self.of_task[task](inputs), inputs.new_zeros(())

    def networks(self) -> list[nn.Module]:
        """The network of each task."""
        return list(self.of_task)


class FineTuned(nn.Module):
    """One plain network that goes on being trained with each task, and forgets."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, K] for a training batch, and no penalty."""
        return self.network(inputs), inputs.new_zeros(())

    def networks(self) -> list[nn.Module]:
        """The one network."""
        return [self.network]


def build_for_tasks(
    build_main_network: Callable[[], nn.Module], hypernet: Mapping[str, Any], tasks: int, beta: float
) -> TaskConditioned | Separate | FineTuned:
    """Build the networks that the configuration group `hypernet` describes; `beta` is the regulariser's weight."""
    require_number("dataset.beta", beta, least=0)
    own = without(hypernet, "kind", "name")
    if hypernet["kind"] == "none":
        return call_with_settings(lambda: FineTuned(build_main_network()), "hypernet", own)
    if hypernet["kind"] == "separate":
        return call_with_settings(lambda: Separate(build_main_network, tasks), "hypernet", own)
    condition_size_of(hypernet, "task")
    main_network = build_main_network()
    require_no_running_statistics(main_network, "task")
    return TaskConditioned(generate_weights(main_network, hypernet), tasks, beta)
