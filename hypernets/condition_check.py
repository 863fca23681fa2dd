"""Whether the condition of a hypernetwork matters: a network that ignores it can still score well."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hypernets.errors import UserError
from hypernets.hyper_dnn import HyperDNN


class ConditionCheck(NamedTuple):
    """A metric with three kinds of conditions, and how much the weights follow them."""

    right: float  # the metric where everything meets its own condition
    shuffled: float  # where everything meets another's
    mean: float  # where everything meets the mean of all conditions
    spread: float  # the standard deviation of a weight over the conditions, as a part of the weights' root mean square


@torch.no_grad()
def does_the_condition_matter(
    network: HyperDNN, evaluate: Callable[[Tensor], float], conditions: Tensor
) -> ConditionCheck:
    """Compare a metric with the right, the shuffled and the mean condition, and measure the spread of the weights.

        check = does_the_condition_matter(network, lambda conditions: error(network, digits, conditions), codes)
        print(check.right, check.shuffled, check.mean, check.spread)

    Where the condition matters, `right` is clearly better than the other two. A spread of zero says that all
    conditions generate the same weights.

    Args:
        network: it generates the weights of one condition after another.
        evaluate: called with K conditions, of which the i-th is for the i-th task or example; returns the metric. It is
            called without gradients, and the network stays in the mode that it is in.
        conditions: the right ones, [K, ...].

    Raises:
        UserError: there are fewer than two conditions, or they are no tensor.
    """
    if not isinstance(conditions, Tensor):
        raise UserError(f"The conditions are of type {type(conditions).__name__}; give a tensor.")
    if not conditions.dim() or len(conditions) < 2:
        raise UserError(
            f"The conditions have the shape {list(conditions.shape)}; give at least two, which can be shuffled."
        )
    spread = weight_spread(network, conditions)
    right, others, average = map(evaluate, (conditions, shuffled(conditions), mean(conditions)))
    return ConditionCheck(float(right), float(others), float(average), spread)


@torch.no_grad()
def weight_spread(network: HyperDNN, conditions: Tensor) -> float:
    """How much the generated weights follow the conditions [K, ...]: the `spread` of a `ConditionCheck`."""
    average = squares = variation = torch.zeros((), dtype=torch.float64, device=conditions.device)
    for count, condition in enumerate(conditions, 1):  # one at a time, since a set of weights may be large
        weights = torch.cat([weight.flatten() for weight in network.weights(condition).values()]).double()
        change = weights - average
        average = average + change / count
        variation = variation + (change * (weights - average)).sum()  # squares about the average so far
        squares = squares + weights.square().sum()
    return (variation / squares).sqrt().item()


def shuffled(conditions: Tensor) -> Tensor:
    """Give each of K conditions [K, ...] the place of another; none keeps its own, and the order is always the same."""
    generator = torch.Generator().manual_seed(0)
    circle = torch.randperm(len(conditions), generator=generator, device="cpu").to(conditions.device)
    places = torch.empty_like(circle)
    places[circle] = circle.roll(1)  # each takes the condition of the next in a random circle
    return conditions[places]


def mean(conditions: Tensor) -> Tensor:
    """Replace each of K conditions [K, ...] with the mean of all."""
    return conditions.mean(dim=0, keepdim=True).expand_as(conditions)
