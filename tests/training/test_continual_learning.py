"""Continual learning: its errors, its controls, and runs that are killed in the middle of a task."""

from functools import partial

import pytest
import torch
from torch import nn

from data.functions import three_polynomials
from data.task_sequences import TaskBatch
from hypernets import GenerateOnce, HyperDNN, Hypernetwork, MLPBody
from models.task_networks import Separate, TaskConditioned
from training.run import read_result
from training.tasks.continual_classification import ContinualClassification
from training.tasks.continual_regression import ContinualRegression

SEQUENCE = [
    *("dataset=split_mnist", "dataset.kind=arrays", "dataset.tasks=2", "dataset.validation_size=12"),
    *("dataset.batch_size=8", "dataset.steps_per_task=6", "main_net=mlp", "main_net.hidden_units=[5]"),
    *("schedule=constant", "schedule.rate=0.01", "steps=12", "log_every=1", "checkpoint_every=2", "validate_every=12"),
    *("logger=none", "device=cpu", "precision=float32"),
]
TASK_CONDITIONED = ["hypernet=chunk_wise", "hypernet.chunk_size=50", "hypernet.condition=task"]
POLYNOMIALS = [
    *("dataset=three_polynomials", "dataset.steps_per_task=4", "main_net=mlp", "main_net.hidden_units=[5]"),
    *("schedule=constant", "schedule.rate=0.01", "steps=12", "log_every=1", "checkpoint_every=2", "validate_every=12"),
    *("logger=none", "device=cpu", "precision=float32", "hypernet=once", "hypernet.units=[5]"),
    *("hypernet.condition=task", "hypernet.condition_size=2"),
]


@pytest.mark.parametrize("data", ["images", "polynomials"])
def test_a_run_killed_in_the_middle_of_a_task_goes_on_exactly(launcher, kill_before, assert_same_run, data):
    images = [*SEQUENCE, f"+dataset.path={launcher.images}", *TASK_CONDITIONED, "hypernet.condition_size=4"]
    run = [*(images if data == "images" else POLYNOMIALS), f"runs={launcher.runs}"]
    launcher.succeed("run=whole", *run)
    # The checkpoint is that of step 8, in the middle of a task with images.
    kill_before(9, lambda: launcher.succeed("run=killed", *run))
    launcher.succeed("run=killed", *run)
    assert_same_run(launcher.runs / "whole", launcher.runs / "killed")
    test, metric = read_result(launcher.runs / "whole")["test"], "error" if data == "images" else "mse"
    assert {metric, *(f"{metric}_{kind}" for kind in ("shuffled_condition", "mean_condition", "task_2"))} <= {*test}
    assert test["weight_spread"] > 0
    assert ("error_task_inferred" in test) == (data == "images")


@pytest.mark.parametrize(("hypernet", "networks"), [("none", 1), ("separate", 2)])
def test_controls_train(launcher, hypernet, networks):
    launcher.succeed(*SEQUENCE, f"+dataset.path={launcher.images}", f"runs={launcher.runs}", f"hypernet={hypernet}")
    run = launcher.only_run()
    assert read_result(run)["parameters"] == networks * (192 * 5 + 5 + 5 * 2 + 2)
    launcher.succeed("-r", str(run), "steps=14")  # -r repeats +dataset.path
    assert read_result(run)["steps"] == 14


def test_each_task_trains_its_own():
    torch.manual_seed(0)
    separate, x = Separate(lambda: nn.Linear(2, 2), 2), torch.randn(3, 2)
    assert torch.equal(separate(x, 1)[0], separate.of_task[1](x))
    chunks = partial(Hypernetwork, generation=GenerateOnce(), body=MLPBody(8), condition_size=4)
    conditioned = TaskConditioned(HyperDNN(nn.Linear(2, 2), chunks), tasks=3, beta=0.5)
    outputs, penalty = conditioned(x, 1)
    assert penalty == 0 and torch.equal(outputs, conditioned.network(x, condition=conditioned.embeddings[1]))
    with torch.no_grad():
        conditioned.network.hypernetwork.heads[0].weight.mul_(2)
    outputs, penalty = conditioned(x, 1)
    distance = conditioned.regulariser(conditioned.network, [conditioned.embeddings[0]])
    assert distance > 0 and torch.equal(penalty, 0.5 * distance)
    (outputs.sum() + penalty).backward()
    assert [embedding.grad is not None for embedding in conditioned.embeddings] == [False, True, False]


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


class Line(nn.Module):
    """a x + b."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x):
        return self.a * x + self.b


def test_errors_of_the_polynomials():
    splits = three_polynomials(steps_per_task=10, batch_size=50, data_seed=0, device="cpu")
    answers = iter([Line(1.0, 3.0), Line(0.0, 0.0), Line(0.0, 1.0)])
    values = ContinualRegression(Separate(lambda: next(answers), 3)).evaluate(splits.test.evaluation_batches())
    assert values["mse_task_1"] == pytest.approx(0, abs=1e-10)  # the points of the test have no noise
    second, third = values["mse_task_2"], values["mse_task_3"]
    assert second == pytest.approx(7 / 15, abs=0.02)  # the mean of (2 x^2 - 1)^2 in [-1, 1]
    assert third == pytest.approx(1 + 1 / 7, abs=0.02)  # of ((x - 3)^3 - 1)^2 in [2, 4]
    assert values["mse"] == pytest.approx((second + third) / 3)
    training = splits.train.batch(0)
    assert (training.targets - training.inputs - 3).std().item() == pytest.approx(0.05, rel=0.3)
