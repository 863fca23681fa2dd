"""Handwriting: whole splits in memory, windows of lines that are pure functions of (seed, step).

A line of handwriting is a sequence of pen positions. Its first position is given; each step moves the pen by (dx, dy)
and says whether a stroke ends there. A line of n positions has n - 1 steps, and every one of them is predicted from
those before it.

dx and dy are normalised to mean 0 and standard deviation 1, each by itself, over all steps of the training split
(Graves 2013, section 4.2, which the paper follows). Nothing is clipped. Other scales shift the log-loss: dividing the
offsets by s once more adds 2 log(s) to the log density of every step.

Shape legend
    T, B     steps in a window, lines side by side
    N, L     positions of all lines of a split together, lines
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data import draws
from data.upload import upload
from hypernets.errors import UserError

EVALUATED_LINES, EVALUATED_STEPS = 64, 500  # side by side, and in a window; only time and memory depend on them


class StrokeWindow(NamedTuple):
    """T steps of each of B lines. Steps after the end of a line are padding, which is not counted."""

    inputs: Tensor  # the steps before those to predict (dx, dy, end of stroke), normalised, float32 [T, B, 3]
    targets: Tensor  # the steps to predict, float32 [T, B, 3]
    counted: Tensor  # whether there is such a step, bool [T, B]
    is_first: bool  # the state is zero before it; otherwise the lines go on from the window before
    predictions: float  # what a mean over the batch divides by: all its counted steps, per process


class Lines:
    """Some lines of handwriting on a device; the arguments are those of `TrainingLines`."""

    def __init__(
        self,
        points: np.ndarray,
        lengths: np.ndarray,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.steps = torch.tensor(lengths, dtype=torch.int64) - 1  # of each line, [L], on the CPU
        self.rank, self.world_size = rank, world_size
        self._device = torch.device(device)
        self._first = torch.tensor(first_positions(lengths), dtype=torch.int64)  # [L], on the CPU
        self._rows = torch.tensor(moves(points, lengths), dtype=torch.float32).to(self._device)  # [N, 3]
        self._mean, self._std = (torch.tensor(each, dtype=torch.float32, device=self._device) for each in (mean, std))

    def window(
        self, lines: Tensor, start: Tensor | int, length: int, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, targets and counted of steps `start` to `start + length` of lines [B], as in `StrokeWindow`.

        A line of number -1 has no steps. dx and dy of each line are multiplied by its `scale` [B].
        """
        end = torch.where(lines < 0, 0, self.steps[lines])
        place = start + torch.arange(length + 1)[:, None]  # within the line, [T + 1, B]
        rows = self._rows[upload(self._first[lines] + place.minimum(end), self._device)]
        offset, ends = rows[..., :2], rows[..., 2:]
        if scale is not None:
            offset = offset * upload(scale[:, None], self._device)
        rows = torch.cat([(offset - self._mean) / self._std, ends], dim=-1)
        return rows[:-1], rows[1:], upload(place[1:] <= end, self._device)


class TrainingLines(Lines):
    """The training split; each epoch shuffles the lines.

    Args:
        points: x, y and whether a stroke ends, integers [N, 3], of all lines one after the other.
        lengths: how many points each line has, [L], at least two.
        mean, std: what dx and dy are normalised by.
        batch_size: lines in a batch over all ranks; a multiple of their number.
        sequence_length: steps of a part that is cut from each line, at a random place; no line may be shorter. None
            for whole lines.
        scaling: each line is drawn larger or smaller by up to this fraction, at random.
        seed: with the step, determines a batch completely.
        device, rank, world_size: where the split is held, and this process's place in data-parallel training.

    Attributes:
        steps_per_epoch: full batches in an epoch.
        examples_per_step: `batch_size`.
    """

    def __init__(
        self,
        points: np.ndarray,
        lengths: np.ndarray,
        *,
        batch_size: int,
        sequence_length: int | None = None,
        scaling: float = 0.0,
        seed: int = 0,
        **shared: object,
    ) -> None:
        if batch_size > len(lengths):
            raise UserError(
                f"batch_size is {batch_size}, but the training split has only {len(lengths)} lines; choose a "
                f"batch_size of at most {len(lengths)}."
            )
        super().__init__(points, lengths, **shared)
        self.steps_per_epoch = len(lengths) // batch_size
        self.examples_per_step = batch_size
        self._sequence_length, self._scaling, self._seed = sequence_length, scaling, seed
        self._epoch_order: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> StrokeWindow:
        """This rank's part of training batch `step` (0, 1, ...), with B = batch_size / world_size.

        The ranks' parts, side by side in rank order, are exactly the batch of a single process; only the padding
        behind whole lines differs. An epoch's last, incomplete batch is left out.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        size = self.examples_per_step
        lines = self._order(epoch)[position * size : (position + 1) * size]
        # Drawn for the whole batch on every rank, so that the numbers do not depend on the number of ranks.
        place, scale = torch.rand(2, size, generator=draws.generator(self._seed, draws.STEP, step))
        scale = 1 + self._scaling * (2 * scale - 1)
        taken = self.steps[lines]
        if self._sequence_length is None:
            start = torch.zeros_like(taken)
        else:
            start = (place * (taken - self._sequence_length + 1)).long()
            taken = torch.full_like(taken, self._sequence_length)
        share = size // self.world_size
        own = slice(self.rank * share, (self.rank + 1) * share)
        window = self.window(lines[own], start[own], int(taken[own].max()), scale[own])
        return StrokeWindow(*window, is_first=True, predictions=int(taken.sum()) / self.world_size)

    def _order(self, epoch: int) -> Tensor:
        # Kept only to save a shuffle per step; for another epoch it is made anew from (seed, epoch).
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = draws.generator(self._seed, draws.EPOCH, epoch)
            self._epoch_order = (epoch, torch.randperm(len(self.steps), generator=generator))
        return self._epoch_order[1]


class EvaluationLines(Lines):
    """A split that is only evaluated: whole lines, the longest first, so that few steps are padding.

    The ranks take turns, line by line; a rank may have none.
    """

    def evaluation_batches(self) -> Iterator[StrokeWindow]:
        """Yield the windows of this rank's lines: as many lines side by side as always, from their first step on."""
        own = self.steps.argsort(descending=True, stable=True)[self.rank :: self.world_size]
        for lines in own.split(EVALUATED_LINES) if len(own) else ():
            longest = int(self.steps[lines[0]])
            lines = torch.cat([lines, lines.new_full((EVALUATED_LINES - len(lines),), -1)])  # compiled code has one B
            for start in range(0, longest, EVALUATED_STEPS):
                inputs, targets, counted = self.window(lines, start, min(EVALUATED_STEPS, longest - start))
                yield StrokeWindow(inputs, targets, counted, start == 0, float(counted.sum()))


@dataclass(frozen=True)
class StrokeSplits:
    """The splits of one set of handwriting."""

    train: TrainingLines
    validation: EvaluationLines
    test: EvaluationLines
    mean: list[float]  # of dx and dy over the training split, in the units of the points
    std: list[float]
    digest: str  # SHA-256 of the points, by which a resume tells whether it reads the same


def first_positions(lengths: np.ndarray) -> np.ndarray:
    """Where each line begins, [L]."""
    return np.cumsum(lengths) - lengths


def moves(points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(dx, dy, end of stroke) of every point, integers [N, 3]; dx and dy are zero at the first point of a line."""
    rows = np.diff(points, axis=0, prepend=points[:1])
    rows[first_positions(lengths)] = 0
    rows[:, 2] = points[:, 2]
    return rows


def without_short_lines(points: np.ndarray, lengths: np.ndarray, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """The points and lengths of the lines of at least `shortest` steps."""
    kept = lengths > shortest
    return points[np.repeat(kept, lengths)], lengths[kept]


def offset_statistics(points: np.ndarray, lengths: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of dx and of dy over all steps."""
    is_step = np.ones(len(points), dtype=bool)
    is_step[first_positions(lengths)] = False
    offsets = moves(points, lengths)[is_step, :2].astype(np.float64)
    std = offsets.std(axis=0)
    return offsets.mean(axis=0).tolist(), np.where(std > 0, std, 1.0).tolist()
