"""Sequences of tasks: which task a step belongs to, and what it sees."""

import numpy as np
import pytest
import torch

from data.build import build_tasks
from hypernets import UserError

SHARED = {"kind": "arrays", "path": "digits.npz", "batch_size": 4, "steps_per_task": 5, "validation_size": 12}


@pytest.fixture
def tasks(tmp_path):
    """Builds a sequence of tasks from images of six classes whose pixels say which image and which pixel they are."""
    draw = np.random.default_rng(0)
    arrays = {
        f"{axis}_{split}": draw.integers(256, size=(size, 3, 3), dtype=np.uint8) if axis == "x" else np.arange(size) % 6
        for split, size in (("train", 60), ("test", 30))
        for axis in "xy"
    }
    np.savez(tmp_path / "digits.npz", **arrays)
    np.savez(
        tmp_path / "sorted.npz",
        **arrays | {f"{axis}_test": np.sort(arrays[f"{axis}_test"], axis=0)[:20] for axis in "xy"},
    )

    def build(**settings):
        return build_tasks(SHARED | {"root": str(tmp_path)} | settings, seed=0, device="cpu", rank=0, world_size=1)

    return build


def test_a_step_belongs_to_its_task_and_repeats(tasks):
    splits = tasks(sequence="split", tasks=3, classes_per_task=2)
    assert [splits.train.batch(step).task for step in (0, 4, 5, 9, 10, 14, 99)] == [0, 0, 1, 1, 2, 2, 2]
    assert splits.train.steps_per_epoch == 15 and splits.num_classes == 2
    first, again = splits.train.batch(7), splits.train.batch(7)
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)


def test_split_tasks_are_all_images_once_with_labels_from_zero(tasks):
    whole = tasks(sequence="split", tasks=1, classes_per_task=6)
    splits = tasks(sequence="split", tasks=3, classes_per_task=2)
    expected = {
        tuple(image.flatten().tolist()): label.item()
        for _, images, labels in whole.test.evaluation_batches()
        for image, label in zip(images, labels, strict=True)
    }
    found = {}
    for task, images, labels in splits.test.evaluation_batches():
        assert labels.min() == 0 and labels.max() == 1
        found |= {
            tuple(image.flatten().tolist()): 2 * task + label.item()
            for image, label in zip(images, labels, strict=True)
        }
    assert found == expected  # to the bit: all tasks are normalised by the statistics of the whole


def test_permuted_tasks_have_an_order_of_pixels_each(tasks):
    splits = tasks(sequence="permuted", tasks=2)
    (_, one, labels), (_, other, same) = splits.test.evaluation_batches()
    assert torch.equal(labels, same) and not torch.equal(one, other)
    one, other = one.flatten(1), other.flatten(1)
    order = [int((other == pixel[:, None]).all(dim=0).nonzero()) for pixel in one.unbind(1)]
    assert sorted(order) == list(range(9))
    assert torch.equal(splits.train.batch(3).inputs, tasks(sequence="permuted", tasks=1).train.batch(3).inputs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sequence": "split", "tasks": 4, "classes_per_task": 2}, "only 6 classes"),
        ({"sequence": "split", "tasks": 3, "classes_per_task": 2, "path": "sorted.npz"}, "test split has no .* task 2"),
        ({"sequence": "split", "tasks": 2, "classes_per_task": 2, "small_size": 2}, "dataset.small_size"),
        ({"sequence": "permuted", "tasks": 2, "classes_per_task": 2}, "classes_per_task is 2"),
        ({"sequence": "mixed", "tasks": 2}, "sequence is 'mixed'"),
        ({"sequence": "permuted", "tasks": 0}, "tasks is 0"),
    ],
)
def test_mistakes(tasks, settings, words):
    with pytest.raises(UserError, match=words):
        tasks(**settings)
