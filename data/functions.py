"""Data sets of functions of one variable, drawn from a seed: a cubic with noise, polynomials in turn, and sinusoids.

Shape legend
    B  functions in a batch
    M  points of a function that are shown
    Q  points that are asked for
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.task_sequences import EvaluationSequence, TrainingSequence
from data.upload import upload
from hypernets.errors import require_whole


def _generator(*seed: int) -> torch.Generator:
    (word,) = np.random.SeedSequence(seed).generate_state(1)
    return torch.Generator().manual_seed(int(word))


class Points:
    """A split of points (x, y), each [N, 1]; every training batch is the whole split."""

    steps_per_epoch = 1

    def __init__(self, x: Tensor, y: Tensor, device: torch.device | str) -> None:
        self.x, self.y = x.to(device), y.to(device)
        self.examples_per_step = len(x)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """All points."""
        return self.x, self.y

    def evaluation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All points, once."""
        yield self.x, self.y


@dataclass(frozen=True)
class FunctionSplits:
    """The splits of a data set of functions."""

    train: "Points | Sinusoids | TrainingSequence"
    validation: "Points | Sinusoids | EvaluationSequence"
    test: "Points | Sinusoids | EvaluationSequence"
    digest: str


NOISE, REACH = 3.0, 4.0  # of the cubic: the standard deviation of y, and |x| at most


def toy_cubic(batch_size: int, data_seed: int, device: torch.device | str) -> FunctionSplits:
    """y = x^3 + N(0, 9) at x in [-4, 4] (Hernandez-Lobato and Adams 2015).

    There are `batch_size` points to train on, all in every batch, and 200 each for validation and test.
    """
    require_whole("dataset.batch_size", batch_size)
    require_whole("dataset.data_seed", data_seed, least=0)

    def split(number: int, size: int) -> Points:
        generator = _generator(data_seed, number)
        x = REACH * (2 * torch.rand(size, 1, generator=generator) - 1)
        return Points(x, x**3 + NOISE * torch.randn(size, 1, generator=generator), device)

    return FunctionSplits(split(0, batch_size), split(1, 200), split(2, 200), f"toy_cubic {batch_size} {data_seed}")


POLYNOMIALS = {  # (from, to) -> a function on this part of the line
    (-4.0, -2.0): lambda x: x + 3,
    (-1.0, 1.0): lambda x: 2 * x**2 - 1,
    (2.0, 4.0): lambda x: (x - 3) ** 3,
}


def three_polynomials(
    steps_per_task: int, batch_size: int, data_seed: int, device: torch.device | str
) -> FunctionSplits:
    """Three polynomials on three parts of the line, one after another (von Oswald et al. 2020).

    Each has `batch_size` points to train on, all in every batch, with noise of standard deviation 0.05. The points of
    validation and test, 100 each, are evenly spaced and without noise.
    """
    require_whole("dataset.steps_per_task", steps_per_task)
    require_whole("dataset.batch_size", batch_size)
    require_whole("dataset.data_seed", data_seed, least=0)
    splits = {"train": [], "validation": [], "test": []}
    for task, ((left, right), polynomial) in enumerate(POLYNOMIALS.items()):
        generator = _generator(data_seed, task)
        x = left + (right - left) * torch.rand(batch_size, 1, generator=generator)
        noise = 0.05 * torch.randn(batch_size, 1, generator=generator)
        splits["train"].append(Points(x, polynomial(x) + noise, device))
        x = torch.linspace(left, right, 200)[:, None]
        for split, points in (("validation", x[::2]), ("test", x[1::2])):
            splits[split].append(Points(points, polynomial(points), device))
    return FunctionSplits(
        TrainingSequence(splits["train"], steps_per_task),
        *(EvaluationSequence(splits[split]) for split in ("validation", "test")),
        digest=f"three_polynomials {batch_size} {data_seed}",
    )


LEAST, RANGE = torch.tensor([0.1, 0.0]), torch.tensor([4.9, torch.pi])  # of amplitude and phase
HELD_OUT = 1 / 6  # of the range, on each side of its middle


class SinusoidBatch(NamedTuple):
    """Functions y = a sin(x - p), each with some points that are shown and others that are asked for."""

    shown: Tensor  # [B, M, 2], pairs (x, y)
    parameters: Tensor  # [B, 2], amplitude and phase
    x: Tensor  # [B, Q, 1]
    y: Tensor  # [B, Q, 1]


class Sinusoids:
    """Sinusoids of amplitude 0.1 to 5 and phase 0 to pi, x in [-5, 5] (Finn et al. 2017), anew in every batch.

    Functions whose amplitude and phase both lie in the middle third of their range are never trained on: with
    `held_out`, only these are drawn.
    """

    steps_per_epoch = 1000  # there is no end to the functions

    def __init__(self, functions: int, points: int, seed: tuple[int, ...], held_out: bool, device) -> None:
        self.examples_per_step = functions
        self._points, self._seed, self._held_out, self._device = points, seed, held_out, device

    def batch(self, step: int) -> SinusoidBatch:
        """Batch `step`, a pure function of the seed and the step."""
        generator = _generator(*self._seed, step)
        size = self.examples_per_step
        candidates = torch.rand(20 * size, 2, generator=generator)  # a ninth of them is in the middle
        middle = ((candidates - 0.5).abs() < HELD_OUT).all(dim=1)
        parameters = candidates[middle if self._held_out else ~middle][:size] * RANGE + LEAST
        x = 10 * torch.rand(size, 2 * self._points, 1, generator=generator) - 5
        y = parameters[:, None, :1] * torch.sin(x - parameters[:, None, 1:])
        shown = torch.cat([x, y], dim=2)[:, : self._points]
        batch = SinusoidBatch(shown, parameters, x[:, self._points :], y[:, self._points :])
        return SinusoidBatch(*(upload(part, self._device) for part in batch))

    def evaluation_batches(self) -> Iterator[SinusoidBatch]:
        """Ten batches, always the same."""
        return (self.batch(step) for step in range(10))


def sinusoids(points: int, batch_size: int, seed: int, device: torch.device | str) -> FunctionSplits:
    """Sinusoids to train on, seen ones for validation, and for test those that are held out."""
    require_whole("dataset.points", points)
    require_whole("dataset.batch_size", batch_size)
    train = Sinusoids(batch_size, points, (seed, 0), False, device)
    # Not (1,): zeros at the end of a seed count for nothing, so its first batch would be training's with seed 1.
    validation = Sinusoids(100, points, (1, 1), False, device)
    test = Sinusoids(100, points, (2,), True, device)  # its functions are never trained on, whatever the seed
    return FunctionSplits(train, validation, test, f"sinusoids {points}")


def nearest_trained(parameters: Tensor) -> Tensor:
    """The nearest amplitude and phase outside of the middle third, each in units of its range: [B, 2] -> [B, 2]."""
    least, extent = LEAST.to(parameters.device), RANGE.to(parameters.device)
    offset = (parameters - least) / extent - 0.5
    moved = torch.where(offset < 0, -HELD_OUT, HELD_OUT)
    inside = (offset.abs() < HELD_OUT).all(dim=1, keepdim=True)
    closest = torch.nn.functional.one_hot((moved - offset).abs().argmin(dim=1), 2).bool()
    return (torch.where(inside & closest, moved, offset) + 0.5) * extent + least
