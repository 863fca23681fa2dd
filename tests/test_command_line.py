"""What a user sees of a mistake: one line on standard error and a non-zero exit status."""

import pytest

from training.command_line import one_line_errors

# (overrides, words of the line). The cases run within the tests' process; those below, as processes.
MISTAKES = [
    ("experiment=table2/wrn_41_1", "'wrn_41_1'", "experiment/table2"),
    ("budget=huge", "'huge'", "choose one of cpu, paper, smoke"),
    ("hypernet=dynamic", "'dynamic'", "hypernet"),
    ("main_nett.width=2", "main_nett.width"),
    ("main_net.widht=2", "main_net.widht"),
    ("+main_net.widht=2", "main_net.widht", "width"),
    ("+budget.extra=1", "budget.extra"),
    ("seed=abc", "seed is 'abc'", "whole number"),
    ("seed=1.5", "seed is 1.5", "whole number"),
    ("seed=null", "seed is None", "whole number"),
    ("seed={a:1}", "seed"),
    ("seed=-1", "seed is -1"),
    ("compile=3", "compile is 3", "true or false"),
    ("main_net.kernel_decay=strong", "main_net.kernel_decay is 'strong'", "a number"),
    ("hypernet.basic_channels=16", "hypernet.basic_channels is 16", "a list"),
    ("hypernet.basic_channels=[a,b]", "hypernet.basic_channels", "a list"),
    ("optimizer.betas=[0.9]", "optimizer.betas", "two numbers"),
    ("optimizer.gradient_clip=-1", "optimizer.gradient_clip is -1", "above 0"),
    ("optimizer.gradient_clip=abc", "optimizer.gradient_clip is 'abc'"),
    ("dataset.test_subsets=5", "dataset.test_subsets is 5", "a mapping"),
    ("schedule.warmup=2", "schedule.warmup is 2"),
    ("device=tpu", "'tpu'", "device=cpu"),
    ("precision=fp16", "'fp16'", "bf16"),
    ("budget.log_every=0", "budget.log_every is 0"),
    ("logger.name=print", "'print'", "logger=wandb_offline"),
    # A name says which code runs; the settings beside it are another's.
    ("hypernet.name=none", "hypernet.name is 'none'", "'static'", "hypernet=none"),
    ("schedule.name=constant", "schedule.name is 'constant'", "'one_cycle'", "schedule=constant"),
    ("~seed", "seed is missing"),
    ("~budget.steps", "budget.steps is missing"),
    ("~main_net", "main_net is missing"),
    ("dataset.name=my/images", "'my/images'", "slash"),
    ("[", "["),
    ("dataset=arrays", "dataset.path is not set"),
    ("dataset.path=null", "dataset.path"),
    ("dataset.path=/nowhere/images.npz", "/nowhere/images.npz", "dataset.path"),
    ("dataset.batch_size=5000", "batch_size is 5000", "images"),
    ("main_net.depth=12", "depth 12", "6 N + 4"),
    ("main_net.width=0", "width", "0"),
    # Combinations that make no sense.
    ("main_net=mnist_convnet", "28x28", "32x32"),
    ("hypernet=hyperlstm", "'hyperlstm'", "'wide_resnet'", "hypernet=none or hypernet=static"),
    ("hypernet=hyperrnn", "'hyperrnn'", "'wide_resnet'"),
    ("main_net=lstm", "'static'", "'lstm'"),
    ("main_net=rnn hypernet=none dataset=shakespeare", "'none'", "'rnn'", "hypernet=hyperrnn"),
    ("main_net=lstm hypernet=none", "'lstm'", "text", "images", "dataset=shakespeare"),
    ("dataset=shakespeare", "'wide_resnet'", "images", "dataset=cifar10_sample"),
    # Channels that the basic kernel does not divide.
    ("hypernet.basic_channels=[24,16]", "24 and 16 do not divide", "basic_channels"),
    ("main_net.width=1 hypernet.basic_channels=[16,32]", "16 and 32 do not divide"),
]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case[0])
def test_mistake(launcher, assert_one_line, case):
    overrides, *words = case
    done = launcher.call("device=cpu", "logger=none", f"runs={launcher.runs}", "budget.steps=1", *overrides.split(" "))
    assert_one_line(done, *words)


def test_process_with_an_unknown_experiment(launcher, assert_one_line):
    assert_one_line(launcher.run("experiment=table2/nothing"), "'nothing'", "experiment/table2")


def test_process_without_data_and_network(launcher, assert_one_line, tmp_path):
    done = launcher.run(*launcher.new("dataset=cifar10", f"dataset.root={tmp_path}/data"))
    assert_one_line(done, "CIFAR-10", f"{tmp_path}/data", "could not be downloaded", "cifar10_sample")
    assert not launcher.runs.exists(), "a run that cannot begin leaves nothing behind"


def test_process_with_an_unwritable_run_directory(launcher, assert_one_line, tmp_path):
    (tmp_path / "file").write_text("")
    done = launcher.run(*launcher.new(f"runs={tmp_path}/file/runs"))
    assert_one_line(done, f"{tmp_path}/file/runs", "Cannot make the run directory", "runs=PATH")


def test_wrong_checksum(launcher, assert_one_line, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"not what was published")
    done = launcher.call(*launcher.new("dataset=cifar10", f"dataset.root={tmp_path}"))
    assert_one_line(done, str(archive), "MD5", "corrupt or incomplete")
    assert archive.read_bytes() == b"not what was published"


def test_file_in_the_place_of_the_data(launcher, assert_one_line, tmp_path):
    images = tmp_path / "images.npz"
    images.write_bytes(b"no archive")
    assert_one_line(launcher.call(*launcher.new(f"dataset.path={images}")), str(images), "cannot be read")


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(KeyError), one_line_errors("train.py"):
        raise KeyError("a mistake of ours")
    with pytest.raises(SystemExit, match=r"^train.py: two lines$"), one_line_errors("train.py"):
        raise ValueError("two\n   lines")
