"""Continual learning: its errors, its controls, and a run that is killed in the middle of a task."""

import json

import pytest
import torch
from torch import nn

from data.task_sequences import TaskBatch, TrainingSequence
from training.run import read_result
from training.tasks.continual_classification import ContinualClassification, Separate

SEQUENCE = [
    *("dataset=split_mnist", "dataset.kind=arrays", "dataset.tasks=2", "dataset.validation_size=12"),
    *("dataset.batch_size=8", "dataset.steps_per_task=6", "main_net=mlp", "main_net.hidden_units=[5]"),
    *("schedule=constant", "schedule.rate=0.01", "steps=12", "log_every=1", "checkpoint_every=2", "validate_every=12"),
    *("logger=none", "device=cpu", "precision=float32"),
]
TASK_CONDITIONED = ["hypernet=chunk_wise", "hypernet.chunk_size=50", "hypernet.condition=task"]


def train(launcher, *overrides):
    launcher.succeed(*SEQUENCE, f"+dataset.path={launcher.images}", f"runs={launcher.runs}", *overrides)


class Killed(BaseException):
    """Stands for a process that ends without a chance to save."""


def test_a_run_killed_in_the_middle_of_a_task_goes_on_exactly(launcher, monkeypatch, assert_same_run):
    hyper = [*TASK_CONDITIONED, "hypernet.condition_size=4"]
    train(launcher, "run=whole", *hyper)
    batch = TrainingSequence.batch

    def killed_at_nine(self, step):
        if step == 9:  # the checkpoint is that of step 8; what was remembered is from step 6
            raise Killed
        return batch(self, step)

    monkeypatch.setattr(TrainingSequence, "batch", killed_at_nine)
    with pytest.raises(Killed):
        train(launcher, "run=killed", *hyper)
    monkeypatch.setattr(TrainingSequence, "batch", batch)
    train(launcher, "run=killed", *hyper)
    assert_same_run(launcher.runs / "whole", launcher.runs / "killed")
    test = read_result(launcher.runs / "whole")["test"]
    assert {"error", "error_task_inferred", "error_shuffled_condition", "error_mean_condition", "error_task_2"} <= {
        *test
    }


@pytest.mark.parametrize(("hypernet", "networks"), [("none", 1), ("separate", 2)])
def test_controls_train(launcher, hypernet, networks):
    train(launcher, f"hypernet={hypernet}")
    run = launcher.only_run()
    assert read_result(run)["parameters"] == networks * (192 * 5 + 5 + 5 * 2 + 2)
    assert len(json.loads((run / "metrics.jsonl").read_text().splitlines()[0])) > 3


def test_a_condition_of_another_kind_is_refused(launcher, assert_one_line):
    arguments = [*SEQUENCE, f"+dataset.path={launcher.images}", f"runs={launcher.runs}", "hypernet=chunk_wise"]
    assert_one_line(launcher.call(*arguments), "hypernet.condition is 'none'", "task")


class Constant(nn.Module):
    """Always the same logits."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_errors_with_the_task_known_and_inferred():
    answers = iter([Constant(9.0, 0.0), Constant(0.0, 1.0)])  # the first is sure of 0, the second leans to 1
    task = ContinualClassification(Separate(lambda: next(answers), 2), 2)
    images = torch.zeros(4, 1, 2, 2)
    batches = [TaskBatch(0, images, torch.tensor([0, 0, 0, 1])), TaskBatch(1, images, torch.tensor([1, 1, 0, 0]))]
    values = task.evaluate(batches)
    assert (values["error_task_1"], values["error_task_2"], values["error"]) == (25, 50, 37.5)
    assert values["error_task_inferred"] == (25 + 100) / 2  # the sure network takes all images
    assert values["error_shuffled_condition"] == (75 + 50) / 2
