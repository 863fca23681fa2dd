"""How the tests start a script of scripts/, and the small runs that scripts read."""

from pathlib import Path

import matplotlib
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
matplotlib.use("Agg")


@pytest.fixture
def call_script(run_in_process):
    """Runs a script of scripts/ in this process: call_script(name, *arguments), the outcome as of its own process."""
    return lambda name, *arguments: run_in_process(SCRIPTS / name, *map(str, arguments))


@pytest.fixture
def assert_refused(call_script):
    """Checks that a script refuses its arguments with one line that has all the words, and prints nothing else."""

    def check(name, *arguments, words):
        done = call_script(name, *arguments)
        assert done.returncode not in (0, None) and done.stdout == "", done
        assert done.stderr.startswith(f"{Path(name).name}: ") and done.stderr.count("\n") == 1, done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    return check


@pytest.fixture
def assert_no_picture(assert_refused, tmp_path):
    """As `assert_refused`, of a script that draws; it must not have written its picture."""

    def check(name, *arguments, words):
        picture = tmp_path / "refused.png"
        assert_refused(name, *arguments, "--output", picture, words=words)
        assert not picture.exists()

    return check


@pytest.fixture(scope="session")
def text_runs(make_launcher, tmp_path_factory):
    """The directories of two finished runs on a text of 2,000 characters: of an LSTM, and of a HyperLSTM."""
    folder = tmp_path_factory.mktemp("text_runs")
    (folder / "my.txt").write_text("the quick brown fox\n" * 100)
    launcher = make_launcher(folder / "runs")
    for hypernet in ("none", "hyperlstm"):
        sizes = ["main_net.hidden_size=6"] + ["hypernet.hyper_size=4"] * (hypernet == "hyperlstm")
        text = [f"dataset.path={folder / 'my.txt'}", "dataset.batch_size=4", "dataset.sequence_length=10"]
        budget = ["budget.steps=4", "budget.log_every=2", "budget.validate_every=2", "budget.checkpoint_every=4"]
        settings = ["main_net=lstm", f"hypernet={hypernet}", "dataset=text", "dataset.warm_up=20", "logger=none"]
        done = launcher.call(*settings, "device=cpu", f"runs={launcher.runs}", *sizes, *text, *budget)
        assert done.returncode == 0, done.stderr
    return sorted(launcher.runs.iterdir(), key=lambda run: "hyperlstm" in run.name)


@pytest.fixture(scope="session")
def image_run(make_launcher, tmp_path_factory):
    """The directory of a finished run of an image classifier."""
    launcher = make_launcher(tmp_path_factory.mktemp("image_run"))
    done = launcher.call(*launcher.new("budget.steps=1", "budget.validate_every=1"))
    assert done.returncode == 0, done.stderr
    return launcher.only_run()
