"""What the training loop knows about a task, its data and its metric."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from hypernets import HyperDNN, UserError


@dataclass(frozen=True)
class Metric:
    """What runs are judged by; smaller is better."""

    key: str  # its name in metrics.jsonl, results and W&B, such as "bits_per_character"
    title: str  # its name for people
    digits: int  # how many digits after the point are worth printing
    unit: str = ""  # what is printed behind a value, such as " %"


class TrainingSplit(Protocol):
    """A training split. Its batches are pure functions of the step."""

    steps_per_epoch: int
    examples_per_step: int  # images, or characters, over all processes

    def batch(self, step: int) -> Any:
        """This process's part of the batch of a step, counted from zero, on the device."""


class EvaluationSplit(Protocol):
    """A split that is only evaluated."""

    def evaluation_batches(self) -> Iterator[Any]:
        """This process's part of the split, once and in order."""


class Splits(Protocol):
    """The splits of a data set."""

    train: TrainingSplit
    validation: EvaluationSplit
    test: EvaluationSplit
    digest: str  # SHA-256 of the data, by which a resume tells whether it reads the same


@runtime_checkable
class Task(Protocol):
    """What a step computes. A task is an `nn.Module` that holds the network, so that `DistributedDataParallel` and
    `torch.compile` wrap the whole computation of a step, penalties included.

    The carried state is a tensor, a tuple of tensors, or None: before the first step, and for tasks whose batches are
    independent.
    """

    network: nn.Module  # whose state is saved
    metric: Metric

    def forward(self, batch: Any, carried: Any) -> tuple[Tensor, Any]:
        """Return the loss, a scalar, and the state to carry to the next step."""

    def evaluate(self, batches: Iterable[Any], total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return {"loss": ..., metric.key: ...} over all batches; `total` adds the sums of all processes.

        The network is in evaluation mode meanwhile and returns to the mode it was in.
        """

    def pictures(self) -> dict[str, np.ndarray | str]:
        """What to show besides the metrics: name -> image, uint8 [H, W, 3], or a page of HTML."""

    def compile(self) -> None:
        """Do what `compile=true` asks for; most tasks inherit this from `nn.Module`.

        On a GPU, `forward` of a task with a `compile` of its own is recorded, so it must not wait for the device
        (captured_pass.py).
        """


def count_trained(task: nn.Module) -> int:
    """How many parameters of a task are learned."""
    return sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)


def generated_weights(task: nn.Module) -> int:
    """How many weights a hypernetwork generates for the main network of a task; 0 without one."""
    networks = [module for module in task.modules() if isinstance(module, HyperDNN)]
    return sum(shape.numel() for network in networks for shape in network.shapes.values())


def build_within_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network, after checking that its weights fit into the machine's memory."""
    try:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in build().parameters())
    except NotImplementedError:  # networks that read a tensor while they are built, such as torchvision's RegNets
        return build()
    needed, there = 16 * parameters, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:  # float32 weights, gradients and the two averages of Adam
        raise UserError(
            f"The network has {parameters:,} parameters and would need {needed / 2**30:,.0f} GiB to train, but this "
            f"machine has {there / 2**30:,.0f} GiB; choose a smaller main_net."
        )
    return build()
