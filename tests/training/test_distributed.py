"""Two processes on one global batch do what one process does."""

import json
import time
from pathlib import Path

import pytest
import torch

from training import distributed
from training.run import read_result, read_rows

ROOT = Path(__file__).parents[2]
# Checkpoints fall between logged rows, so that a resume has to restore a half-filled mean.
# SGD with a low rate, because every step magnifies differences in rounding: those of Adam most, whose first steps make
# a whole step of a gradient that is almost zero.
STEPS = ("precision=float32", "steps=6", "log_every=2", "validate_every=3", "checkpoint_every=3")
SGD = ("optimizer=sgd", "schedule=constant", "schedule.rate=0.001")
RESNET = ("main_net=torchvision", "precision=float32", "steps=2", "log_every=1")
RUNS = {"images": (*STEPS, *SGD), "resnet18": (*RESNET, *SGD), "text": STEPS}

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")

# What the two processes do, one thing after the other, since their start takes longer than all of it.
PROGRAM = """
import json, runpy, shutil, sys
import torch
from torch import nn

root, commands, copies = sys.argv[1], *map(json.loads, sys.argv[2:])
sys.path.insert(0, root)
from training import checkpoint
from training.distributed import start_processes, synchronise_batch_norm

processes = start_processes("cpu")
generator = torch.Generator().manual_seed(0)
batch = (3 + 2 * torch.randn(8, 3, 5, 4, generator=generator)).requires_grad_()
weights = torch.randn(8, 3, 5, 4, generator=generator)  # of the outputs in the loss, so that no gradient vanishes
whole = nn.BatchNorm2d(3)
shared = synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), processes.device)
own = slice(4 * processes.rank, 4 * processes.rank + 4)

def close(ours, theirs, what):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text: f"{what}: {text}")

part = batch[own].detach().requires_grad_()
expected, output = whole(batch), shared(part)
close(output, expected[own], "output")
(expected * weights).square().sum().backward()
(output * weights[own]).square().sum().backward()
close(part.grad, batch.grad[own], "gradient of the input")
for name, parameter in shared[0].named_parameters():
    close(processes.total(parameter.grad), whole.get_parameter(name).grad, f"gradient of {name}")
for name, buffer in shared[0].named_buffers():
    close(buffer, whole.get_buffer(name), name)
assert (nn.BatchNorm2d(3)(part) - output).abs().max() > 0.01, "the halves differ, so this can fail"

save = checkpoint.save_checkpoint

def save_and_keep(directory, state):
    save(directory, state)
    shutil.copy(directory / checkpoint.NEWEST, directory / f"step_{state['step']}.pt")

checkpoint.save_checkpoint = save_and_keep

for command in commands:
    sys.argv = ["train.py", *command]
    runpy.run_path(root + "/train.py", run_name="__main__")
for whole, copy, kept in copies:
    if processes.is_first:
        shutil.copytree(whole, copy)
        shutil.move(f"{copy}/{kept}", f"{copy}/checkpoint.pt")
        shutil.move(f"{copy}/result.json", f"{copy}/result_of_the_whole.json")
    torch.distributed.barrier()
    sys.argv = ["train.py", "-r", copy]
    runpy.run_path(root + "/train.py", run_name="__main__")
"""


def assert_close(run, other, rel=1e-4):
    """Checks that two runs logged the same, but for the rounding of float32 sums in another order."""
    # A ReLU that rounding switches shows in the gradient, and a sum in place of a mean.
    tolerances = {"train/loss": rel, "train/gradient_norm": 1e-2, "validation/loss": 1e-2}
    ours, theirs = read_rows(run), read_rows(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs] and len(ours) > 1
    for mine, yours in zip(ours, theirs, strict=True):
        for key in mine:
            assert mine[key] == pytest.approx(yours[key], rel=tolerances.get(key, 0.2)), (key, mine["step"])


@pytest.fixture
def commands(tmp_path, launcher):
    """The command line of each run, without its name and folder."""
    path = tmp_path / "my.txt"
    path.write_text("the quick brown fox\n" * 50)
    dropout = [f"main_net.{place}_dropout=0.0" for place in ("input", "output", "recurrent")]
    text = [f"dataset.path={path}", "dataset.batch_size=4", "dataset.sequence_length=10", "dataset.warm_up=20"]
    network = ["main_net=lstm", "main_net.hidden_size=6", "main_net.num_layers=2", "hypernet=hyperlstm"]
    text = [*network, "hypernet.hyper_size=4", "dataset=text", *text, *dropout, "dataset.validation_streams=3"]
    images = [f"dataset.path={launcher.images}", "dataset.batch_size=16"]
    groups = {"images": ["main_net.depth=10", *images], "resnet18": images, "text": text}
    return {name: [*groups[name], "logger=none", "device=cpu", *settings] for name, settings in RUNS.items()}


@pytest.fixture
def one(tmp_path, launcher, commands):
    """The folder of the runs of one process."""
    for name, command in commands.items():
        launcher.succeed(*command, f"runs={tmp_path}/one", f"run={name}")
    return tmp_path / "one"


def test_two_processes_do_what_one_does(launcher, tmp_path, commands, one, assert_same_run, assert_one_line):
    """One test, because the processes take longer to start than all that they do."""
    two = tmp_path / "two"
    in_two = [[*command, f"runs={two}", f"run={name}"] for name, command in commands.items()]
    in_two.append([*in_two[0], "run=unsynchronised", "sync_batch_norm=false", "steps=2"])
    copies = [(two / name, two / f"resumed_{name}", "step_3.pt") for name in ("images", "text")]
    copies.append((one / "images", two / "resumed_from_one", "checkpoint.previous.pt"))
    (tmp_path / "program.py").write_text(PROGRAM)
    done = launcher.run(
        *(str(tmp_path / "program.py"), str(ROOT), json.dumps(in_two), json.dumps(copies, default=str)),
        program=TORCHRUN,
    )
    assert done.returncode == 0, done.stderr
    for name in RUNS:
        assert_close(two / name, one / name)
        assert "2 processes" in read_result(two / name)["hardware"]
    losses = [read_rows(run)[0]["train/loss"] for run in (two / "unsynchronised", one / "images")]
    assert abs(losses[0] / losses[1] - 1) > 1e-3

    for name in ("images", "text"):  # resumed in two: to the last bit
        saved = torch.load(two / name / "step_3.pt", weights_only=True)
        assert len(saved["carried"]) == 2 and (saved["carried"][0] is not None) == (name == "text")
        assert_same_run(two / name, two / f"resumed_{name}")

    assert_close(two / "resumed_from_one", one / "images")
    for name in ("images", "text"):  # resumed in one
        (two / name / "result.json").unlink()
        (two / name / "step_3.pt").replace(two / name / "checkpoint.pt")
    launcher.succeed("-r", str(two / "images"))
    assert_close(two / "images", one / "images")
    assert_one_line(launcher.call("-r", str(two / "text")), "carried its state in 2 processes", "resume it with 2")


@pytest.mark.slow
def test_two_processes_stop_soon_however_seldom_they_log(launcher, tmp_path, commands):
    never = ["checkpoint_every=5", *(f"{key}=1000000" for key in ("steps", "log_every", "validate_every"))]
    command = [str(ROOT / "train.py"), *commands["text"], *never, f"runs={tmp_path}", "run=stopped"]
    process = launcher.start(*command, program=TORCHRUN)
    while not (tmp_path / "stopped" / "checkpoint.previous.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    assert "Stopped at step " in launcher.finish(process).stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["images", "text"])
def test_gpu_trains_as_the_cpu_does(launcher, commands, one, name):
    """The text on the fast path, the images with batch norm on the device."""
    launcher.succeed(*commands[name], "device=cuda", "compile=true", f"runs={launcher.runs}", f"run={name}")
    assert_close(launcher.runs / name, one / name, rel=1e-2)  # a GPU sums in another order


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", ["images", "text"])
def test_two_gpus_train_as_one_cpu(launcher, commands, one, name):
    arguments = (*commands[name], "device=cuda", f"runs={launcher.runs}", f"run={name}")
    done = launcher.run(*arguments, program=(*TORCHRUN, str(ROOT / "train.py")))
    assert done.returncode == 0, done.stderr
    assert_close(launcher.runs / name, one / name, rel=1e-2)  # a GPU sums in another order


def test_batch_norm_of_a_channel_that_hardly_varies(monkeypatch):
    """The mean square minus the squared mean would be negative here now and then."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    x = 50 + 0.01 * torch.randn(8, 40, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, :20] = x[:1, :20, :1, :1]
    expected, own = torch.nn.BatchNorm2d(40), torch.nn.BatchNorm2d(40)
    own = distributed.synchronise_batch_norm(own, torch.device("cpu"))
    torch.testing.assert_close(own(x), expected(x), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(own.running_var, expected.running_var)
