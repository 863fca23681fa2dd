"""Two processes on one global batch do what one process does."""

import json
import shutil

import pytest

from training import checkpoint

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
# Checkpoints fall between logged rows, so that a resume has to restore a half-filled mean.
# SGD with a low rate, because every step magnifies differences in rounding: those of Adam most, whose first steps make
# a whole step of a gradient that is almost zero.
SETTINGS = (
    "precision=float32",
    "optimizer=sgd",
    "schedule=constant",
    "schedule.rate=0.001",
    "budget.steps=6",
    "budget.log_every=2",
    "budget.validate_every=3",
    "budget.checkpoint_every=3",
)

SYNCHRONISED_BATCH_NORM = """
import os, sys
import torch
from torch import nn
sys.path.insert(0, os.getcwd())
from training.distributed import start_processes, synchronise_batch_norm

processes = start_processes("cpu")
generator = torch.Generator().manual_seed(0)
batches = [3 + 2 * torch.randn(8, 3, 5, 4, generator=generator) for _ in range(2)]
weights = torch.randn(8, 3, 5, 4, generator=generator)  # of the outputs in the loss, so that no gradient vanishes
whole, shared = nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))
for norm in (whole, shared[0]):
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
shared = synchronise_batch_norm(shared, processes.device)
own = slice(4 * processes.rank, 4 * processes.rank + 4)

def close(ours, theirs, what):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text: f"{what}: {text}")

for batch in batches:
    x, part = batch.clone().requires_grad_(), batch[own].clone().requires_grad_()
    expected, output = whole(x), shared(part)
    close(output, expected[own], "output")
    for norm in (whole, shared[0]):
        norm.zero_grad()
    (expected * weights).square().sum().backward()
    (output * weights[own]).square().sum().backward()
    close(part.grad, x.grad[own], "gradient of the input")
    for name, parameter in shared[0].named_parameters():
        close(processes.total(parameter.grad.clone()), whole.get_parameter(name).grad, f"gradient of {name}")
    for name, buffer in shared[0].named_buffers():
        close(buffer, whole.get_buffer(name), name)
whole.eval(), shared.eval()
close(shared(batches[0][own]), whole(batches[0])[own], "output in evaluation mode")
alone = nn.BatchNorm2d(3)(batches[0][own])
assert (alone - nn.BatchNorm2d(3)(batches[0])[own]).abs().max() > 0.01, "the halves differ, so this can fail"
"""


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(run, other):
    """Checks that two runs logged the same, but for the rounding of float32 sums in another order."""
    tolerances = {
        "train/loss": 1e-4,
        "train/gradient_norm": 1e-2,  # a ReLU that rounding switches shows here, and a sum in place of a mean
        "validation/loss": 1e-4,
        "validation/error": 1 / 90,  # 2 of 200 images
    }
    ours, theirs = rows(run), rows(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    assert [row["step"] for row in ours] == [2, 3, 4, 6]
    for mine, yours in zip(ours, theirs, strict=True):
        for key in tolerances.keys() & mine.keys():
            assert mine[key] == pytest.approx(yours[key], rel=tolerances[key]), (key, mine["step"])


@pytest.fixture(scope="module")
def one(tmp_path_factory, make_launcher):
    """The run of one process."""
    launcher = make_launcher(tmp_path_factory.mktemp("one"))
    assert launcher.call(*launcher.new(*SETTINGS)).returncode == 0
    return launcher.only_run()


@pytest.fixture(scope="module")
def two(tmp_path_factory, make_launcher):
    """The same run in two processes."""
    launcher = make_launcher(tmp_path_factory.mktemp("two"))
    done = launcher.run(*launcher.new(*SETTINGS), program=(*TORCHRUN, "train.py"))
    assert done.returncode == 0, done.stderr
    return launcher.only_run()


def interrupted(run, runs):
    """A copy of a run that looks as if it had been killed after its checkpoint at step 3."""
    copy = shutil.copytree(run, runs / run.name)
    (copy / "result.json").unlink()
    (copy / checkpoint.PREVIOUS).replace(copy / checkpoint.NEWEST)
    assert checkpoint.load(copy / checkpoint.NEWEST)["step"] == 3
    return copy


def test_synchronised_batch_norm_is_batch_norm_of_the_global_batch(launcher, tmp_path):
    script = tmp_path / "compare.py"
    script.write_text(SYNCHRONISED_BATCH_NORM)
    done = launcher.run(str(script), program=TORCHRUN)
    assert done.returncode == 0, done.stderr


def test_two_processes_train_as_one(one, two):
    assert_close(two, one)
    result = json.loads((two / "result.json").read_text())
    assert "2 processes" in result["hardware"]


@pytest.mark.slow
def test_without_synchronised_batch_norm_they_differ(launcher, one):
    arguments = launcher.new(*SETTINGS, "sync_batch_norm=false", "budget.steps=2")
    done = launcher.run(*arguments, program=(*TORCHRUN, "train.py"))
    assert done.returncode == 0, done.stderr
    (row,) = rows(launcher.only_run())
    assert abs(row["train/loss"] / rows(one)[0]["train/loss"] - 1) > 1e-3


def test_resume_of_two_processes_in_two_is_bitwise(launcher, two, assert_same_run):
    run = interrupted(two, launcher.runs)
    done = launcher.run("-r", str(run), program=(*TORCHRUN, "train.py"))
    assert done.returncode == 0, done.stderr
    assert_same_run(two, run)


@pytest.mark.slow
def test_resume_in_another_number_of_processes(launcher, one, two):
    run = interrupted(two, launcher.runs)
    assert launcher.call("-r", str(run)).returncode == 0
    assert_close(run, one)

    shutil.rmtree(run)
    run = interrupted(one, launcher.runs)
    done = launcher.run("-r", str(run), program=(*TORCHRUN, "train.py"))
    assert done.returncode == 0, done.stderr
    assert_close(run, one)
