"""Sequences of tasks, for continual learning; the step says which one is on.

Tasks may be made of one data set of images, or be functions (data/functions.py).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.images import ImageBatches, ImageSplits
from data.sources import ImageArrays


class TaskBatch(NamedTuple):
    """A batch of one task."""

    task: int
    inputs: Tensor  # images, float32 [B, C, H, W], or x [B, 1]
    targets: Tensor  # labels, int64 [B], from 0 in every task, or y [B, 1]


def of_classes(divided: ImageArrays, classes: range) -> ImageArrays:
    """Only some classes of a data set, which become 0, 1, ..."""

    def part(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = (labels >= classes.start) & (labels < classes.stop)
        return images[chosen], labels[chosen] - classes.start

    return ImageArrays(
        *part(divided.train_images, divided.train_labels),
        *part(divided.test_images, divided.test_labels),
        len(classes),
        *part(divided.validation_images, divided.validation_labels),
    )


class PermutedImages:
    """A split whose pixels are in another order, the same in all images."""

    def __init__(self, split: ImageBatches, order: Tensor) -> None:
        self._split, self._order = split, order
        self.examples_per_step, self.steps_per_epoch = split.examples_per_step, split.steps_per_epoch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of training batch `step`."""
        return self._permuted(*self._split.batch(step))

    def evaluation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the split, once and in order."""
        return (self._permuted(*batch) for batch in self._split.evaluation_batches())

    def _permuted(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.contiguous().flatten(2)[:, :, self._order]
        return pixels.unflatten(2, images.shape[2:]), labels

    @classmethod
    def splits(cls, whole: ImageSplits, seed: tuple[int, int]) -> ImageSplits:
        """The three splits with the order of pixels that a seed determines."""
        pixels = whole.image_shape[1] * whole.image_shape[2]
        order = torch.from_numpy(np.random.default_rng(seed).permutation(pixels))
        changed = {name: cls(getattr(whole, name), order) for name in ("train", "validation", "test")}
        return dataclasses.replace(whole, **changed)


class TrainingSequence:
    """The training splits of tasks, one after another; a batch is a pure function of the step."""

    def __init__(self, tasks: Sequence[Any], steps_per_task: int) -> None:
        self._tasks, self._steps_per_task = tasks, steps_per_task
        self.examples_per_step = tasks[0].examples_per_step
        self.steps_per_epoch = len(tasks) * steps_per_task  # once through all tasks

    def batch(self, step: int) -> TaskBatch:
        """Batch `step`, of the task step // steps_per_task; the last task goes on for ever."""
        task = min(step // self._steps_per_task, len(self._tasks) - 1)
        return TaskBatch(task, *self._tasks[task].batch(step))


class EvaluationSequence:
    """The validation splits of all tasks, or their test splits."""

    def __init__(self, tasks: Sequence[Any]) -> None:
        self._tasks = tasks

    def evaluation_batches(self) -> Iterator[TaskBatch]:
        """All tasks in order."""
        for task, split in enumerate(self._tasks):
            for batch in split.evaluation_batches():
                yield TaskBatch(task, *batch)


@dataclass(frozen=True)
class TaskSplits:
    """The splits of a sequence of tasks made of images."""

    train: TrainingSequence
    validation: EvaluationSequence
    test: EvaluationSequence
    tasks: int
    num_classes: int  # of each task
    image_shape: tuple[int, int, int]  # (C, H, W)
    digest: str

    @classmethod
    def in_turn(cls, tasks: Sequence[ImageSplits], steps_per_task: int) -> "TaskSplits":
        """Learn tasks of the same number of classes one after another."""
        return cls(
            train=TrainingSequence([task.train for task in tasks], steps_per_task),
            validation=EvaluationSequence([task.validation for task in tasks]),
            test=EvaluationSequence([task.test for task in tasks]),
            tasks=len(tasks),
            num_classes=tasks[0].num_classes,
            image_shape=tasks[0].image_shape,
            digest=tasks[0].digest,
        )
