"""How the tests call a script, and the small runs that scripts read."""

import sys
from pathlib import Path

import matplotlib
import pytest

from scripts import train_command

matplotlib.use("Agg")


@pytest.fixture
def call_script(launcher):
    """Calls a script of scripts/ in this process: call_script(name, *arguments)."""
    return lambda name, *arguments: launcher.call(*map(str, arguments), program=f"scripts/{name}.py")


@pytest.fixture
def train_here(launcher, monkeypatch):
    """Lets the scripts train in this process, too."""

    def run_training(*commands):
        for command in commands:
            done = launcher.call(*command)
            if done.returncode:
                sys.exit(done.returncode)

    monkeypatch.setattr(train_command, "run_training", run_training)


@pytest.fixture
def assert_refused(call_script, assert_one_line):
    """Checks that a script refuses its arguments with one line that has all the words, and prints nothing else."""

    def check(name, *arguments, words):
        done = call_script(name, *arguments)
        assert_one_line(done, *words, program=name)
        assert done.stdout == ""

    return check


@pytest.fixture(scope="session")
def text_runs(make_launcher, tmp_path_factory) -> list[Path]:
    """The directories of two finished runs on a text of 2,000 characters: of an LSTM, and of a HyperLSTM."""
    folder = tmp_path_factory.mktemp("text_runs")
    (folder / "my.txt").write_text("the quick brown fox\n" * 100)
    launcher = make_launcher(folder / "runs")
    text = ["dataset=text", f"dataset.path={folder / 'my.txt'}", "dataset.batch_size=4", "dataset.sequence_length=10"]
    shared = [*text, "dataset.warm_up=20", "main_net=lstm", "main_net.hidden_size=6", "steps=4", "validate_every=2"]
    for name, hypernet in (("plain", ["hypernet=none"]), ("hyper", ["hypernet=hyperlstm", "hypernet.hyper_size=4"])):
        place = [f"runs={launcher.runs}", f"run={name}", "logger=none", "device=cpu"]
        launcher.succeed(*shared, *hypernet, *place)
    return [launcher.runs / "plain", launcher.runs / "hyper"]
