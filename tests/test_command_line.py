"""What a user sees of a mistake: one line on standard error and a non-zero exit status."""

import shutil

import pytest
from omegaconf import OmegaConf

from models.wide_resnet import WideResNet
from training.command_line import one_line_errors, overrides_to_keep

# (overrides, words of the line). The cases run within the tests' process.
MISTAKES = [
    ("[", "["),
    # Names that are no choice, and keys that are no setting.
    ("experiment=table2/wrn_41_1", "'table2/wrn_41_1'", "table2/wrn_40_1, ", "table7/mnist_convnet"),
    ("hypernet=dynamic", "'dynamic'", "hyperlstm, hyperrnn, "),
    ("main_net.widht=2", "'main_net.widht'", "--cfg job"),
    ("+main_net.widht=2", "main_net.widht", "depth, width"),
    ("+dataset.batch=2", "batch"),
    ("+budget=cpu", "budget"),
    ("~steps", "steps is missing"),
    ("~schedule.peak", "schedule.peak is missing"),
    # Values of another kind, or that make no sense.
    ("seed=abc", "seed is 'abc'", "whole number"),
    ("seed=-1", "seed is -1"),
    ("compile=3", "compile is 3", "auto, true or false"),
    ("table=[1,2]", "table is [1, 2]", "text"),
    ("runs=''", "runs is ''"),
    ("run=3", "run is 3"),
    ("gradient_clip=nan", "gradient_clip is nan"),
    ("optimizer.betas=[0.9,1]", "optimizer.betas is 1", "below 1"),
    ("optimizer=sgd optimizer.momentum=1.5", "optimizer.momentum is 1.5", "below 1"),
    ("optimizer.kind=sgd", "optimizer.betas", "momentum"),
    ("schedule=table8 steps=672000", "steps is 672000", "no rate after step 140000", "schedule.until"),
    ("main_net.kernel_decay=-1", "main_net.kernel_decay is -1", "at least 0"),
    ("main_net=mlp +main_net.kernel_decay=1 hypernet=none", "main_net.kernel_decay is 1", "no convolution kernels"),
    ("device=tpu", "'tpu'", "device=cpu"),
    ("precision=fp16", "'fp16'", "bf16"),
    ("main_net.width=1000000", "parameters", "GiB", "smaller main_net"),
    ("dataset=arrays", "dataset.path is not set"),
    ("dataset.path=/nowhere/images.npz", "/nowhere/images.npz", "dataset.path"),
    ("dataset.task=sorting", "'sorting'", "image_classification"),
    # Combinations that make no sense.
    ("main_net=mnist_convnet", "28x28", "8x8"),
    ("main_net=lstm hypernet=none", "'lstm'", "images", "main_net=wide_resnet"),
    ("main_net=lstm dataset=shakespeare", "'static'", "'lstm'", "hypernet=none or hypernet=hyperlstm"),
    ("dataset=shakespeare", "'wide_resnet'", "sequences", "main_net=lstm"),
    ("hypernet.basic_channels=[24,16]", "nothing to generate", "3x3 kernels", "[24, 16]"),
    ("main_net=mlp", "hypernet=static has nothing to generate", "such as none or chunk_wise"),
    ("dataset=three_polynomials main_net=mlp", "hypernet=static takes no condition", "hypernet=chunk_wise"),
    ("dataset=toy_cubic main_net=mlp hypernet=separate", "add it with +hypernet.members=VALUE"),
    ("schedule=repeated_cycle", "schedule.period cannot be found", "set schedule.period=VALUE"),
    ("steps", "'steps' is no setting; write KEY=VALUE"),
]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case[0])
def test_mistake(launcher, assert_one_line, case):
    overrides, *words = case
    images = [] if "dataset=" in overrides else [f"dataset.path={launcher.images}"]
    arguments = ["device=cpu", "logger=none", f"runs={launcher.runs}", *images, "dataset.batch_size=16", "steps=1"]
    done = launcher.call(*arguments, *overrides.split(" "))
    assert_one_line(done, *words)
    assert "append" not in done.stderr, "Hydra's hint, which would be refused"
    assert not launcher.runs.exists(), "a run that cannot begin leaves nothing behind"


def test_without_data_and_network(launcher, assert_one_line, tmp_path):
    done = launcher.call("experiment=table2/hyper_wrn_40_1", f"dataset.root={tmp_path}/data", f"runs={launcher.runs}")
    assert_one_line(done, "CIFAR-10", f"{tmp_path}/data", "could not be downloaded", "cifar10_sample")
    assert not launcher.runs.exists()


def test_slurm_without_a_cluster(launcher, assert_one_line, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = launcher.call("-m", "hydra/launcher=slurm", "seed=0,1", f"runs={launcher.runs}")
    assert_one_line(done, "needs a Slurm cluster", "no srun")
    assert not launcher.runs.exists()


def test_unwritable_run_directory(launcher, assert_one_line, tmp_path):
    (tmp_path / "file").write_text("")
    done = launcher.call(*launcher.new(f"runs={tmp_path}/file/runs"))
    assert_one_line(done, f"{tmp_path}/file/runs", "Cannot write to the run directory", "runs=PATH")


@pytest.mark.parametrize("error", [RuntimeError("shape '[3]' is invalid"), ValueError("theirs")])
def test_error_in_a_users_network_keeps_its_traceback_and_names_the_run(launcher, monkeypatch, error):
    def forward(network, images):
        raise error

    monkeypatch.setattr(WideResNet, "forward", forward)
    done = launcher.call(*launcher.new("run=mine"))
    assert done.returncode == 1
    assert f"python train.py -r {launcher.runs}/mine" in done.stderr
    assert "Traceback" in done.stderr and done.stderr.endswith(f"{type(error).__name__}: {error}\n")


def test_a_configuration_file_that_is_no_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("units: [1, 2\nname: mine")
    with pytest.raises(SystemExit, match=r"^train.py: .*mine.yaml.*line 2"), one_line_errors("train.py"):
        OmegaConf.load(tmp_path / "mine.yaml")


def test_a_resume_knows_the_folder_of_the_runs(tmp_path, monkeypatch):
    """A path in a configuration file may be within it."""
    monkeypatch.chdir(tmp_path)
    for given in ([], ["runs=mine"]):
        settings = {"runs": "mine" if given else "runs", "dataset": {}}
        kept = overrides_to_keep(["seed=1", *given, "resume=x"], settings)
        assert kept == ["seed=1", f"runs='{tmp_path}/{settings['runs']}'"]


def test_works_from_any_folder(launcher, tmp_path):
    """The bundled data, the user's own, and a run, from folders that are not the repository, one with a quote."""
    here, there = tmp_path / "it's here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    shutil.copy(launcher.images, here / "my.npz")
    small = ["main_net.depth=10", "dataset.batch_size=16", "logger=none", "device=cpu", "steps=1"]
    done = launcher.run(*small, "dataset.path=my.npz", "run=own", cwd=here)
    assert done.returncode == 0, done.stderr
    launcher.succeed(*small, "run=bundled", cwd=here)
    for run in ("../it's here/runs/own", "../it's here/runs/bundled"):
        launcher.succeed("-r", run, "steps=2", cwd=there)
        launcher.succeed(run, program="eval.py", cwd=there)
    launcher.succeed("-r", r"runs='../it\'s here/runs'", "steps=3", cwd=there)
    assert not list(there.iterdir())


def test_help_lists_the_choices(launcher):
    assert all(name in launcher.succeed("--help").stdout for name in ("layer_norm_lstm", "chunk_wise", "split_mnist"))
