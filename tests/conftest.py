"""How the tests start programs, as processes or in this one to save their start; and where the real data sets are."""

import io
import os
import runpy
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from training.loop import Trainer
from training.run import read_result

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)  # in such small operations threads wait for each other, and bits depend on their number


class Launcher:
    """Starts programs, train.py unless another is given, with run directories of its own.

    Args:
        runs: where the runs go.
        images: an .npz of a few small images.
    """

    def __init__(self, runs: Path, images: Path) -> None:
        self.runs = runs
        self.images = images
        self.started: list[subprocess.Popen] = []
        # One thread, as here; a proxy that is not there, so that no test depends on whether there is a network.
        self.changed_environment = {
            "OMP_NUM_THREADS": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }

    def new(self, *overrides: str) -> list[str]:
        """The command line of a run of a second or so; `overrides` come last."""
        sizes = ["main_net.depth=10", f"dataset.path={self.images}", "dataset.batch_size=16"]
        return [*sizes, "logger=none", "device=cpu", f"runs={self.runs}", *overrides]

    def start(
        self, *arguments: str, program: tuple[str, ...] = (str(ROOT / "train.py"),), cwd: Path = ROOT
    ) -> subprocess.Popen:
        """Start a process; the fixture kills it at the end of the test if it still runs then."""
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=cwd,
            env=os.environ | self.changed_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen) -> subprocess.CompletedProcess:
        """Wait for a process."""
        stdout, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def run(self, *arguments: str, **place) -> subprocess.CompletedProcess:
        """Start a process and wait for it."""
        return self.finish(self.start(*arguments, **place))

    def call(self, *arguments: str, program: str = "train.py", cwd: Path = ROOT) -> subprocess.CompletedProcess:
        """Do in this process what `run` does in a new one, without the seconds that its start takes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            for name, value in self.changed_environment.items():
                patch.setenv(name, value)
            return call_program(ROOT / program, *arguments)

    def succeed(self, *arguments: str, **place) -> subprocess.CompletedProcess:
        """`call` what must succeed."""
        done = self.call(*arguments, **place)
        assert done.returncode == 0, done.stderr
        return done

    def stop(self) -> None:
        """End what still runs, as after a test that failed."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()  # torchrun ends its processes on this signal, but cannot on SIGKILL
                try:
                    process.communicate(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def only_run(self) -> Path:
        """The one run directory there is."""
        (run,) = (path.parent for path in self.runs.glob("*/run.json"))
        return run

    def wait_for_rows(self, process: subprocess.Popen, rows: int) -> None:
        """Wait until the metrics file of the only run has that many rows."""
        wait_until(lambda: any(number_of_rows(run) >= rows for run in self.runs.glob("*/")), process)


def call_program(path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a program in this process; what came out is as of a process of its own."""
    stdout, stderr, returncode = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", [path.name, *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")  # the programs set it; this restores it
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            returncode = end.code
            if isinstance(returncode, str):  # what Python does with sys.exit("message")
                print(returncode, file=sys.stderr)
                returncode = 1
        except Exception:
            traceback.print_exc()
            returncode = 1
    return subprocess.CompletedProcess(arguments, returncode, stdout.getvalue(), stderr.getvalue())


def number_of_rows(run: Path) -> int:
    """Rows in a run's metrics file; 0 where there is none yet."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for a condition that a running process brings about."""
    for _ in range(60_000):
        if condition():
            return
        assert process.poll() is None, f"ended early with {process.returncode}: {process.communicate()}"
        time.sleep(0.005)
    raise AssertionError("nothing happened")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests that need a C++ compiler where there is none."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        for item in items:
            if item.get_closest_marker("compiler"):
                item.add_marker(pytest.mark.skip(reason="needs a C++ compiler"))


@pytest.fixture(scope="session")
def make_launcher(tmp_path_factory):
    """Makes launchers; kills at the end what they started and left running."""
    made: list[Launcher] = []
    images = tmp_path_factory.mktemp("data") / "images.npz"
    draw = np.random.default_rng(0)
    sizes = {"train": 80, "test": 12}
    arrays = {f"x_{split}": draw.integers(256, size=(size, 8, 8, 3), dtype=np.uint8) for split, size in sizes.items()}
    np.savez(images, **arrays, **{f"y_{split}": np.arange(size) % 4 for split, size in sizes.items()})

    def make(runs: Path) -> Launcher:
        made.append(Launcher(runs, images))
        return made[-1]

    yield make
    for launcher in made:
        launcher.stop()


@pytest.fixture
def launcher(tmp_path, make_launcher):
    """A launcher whose runs no other test sees."""
    launcher = make_launcher(tmp_path / "runs")
    yield launcher
    launcher.stop()


class Killed(BaseException):
    """Stands for a process that ends without a chance to save."""


@pytest.fixture
def kill_before(monkeypatch):
    """Starts a run in this process that is killed before a step: kill_before(step, start)."""

    def kill(step: int, start: Callable[[], object]) -> None:
        train = Trainer._step

        def train_or_die(trainer: Trainer) -> None:
            if trainer.state.step == step:
                raise Killed
            train(trainer)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Trainer, "_step", train_or_die)
            start()

    return kill


@pytest.fixture(scope="session")
def finished(tmp_path_factory, make_launcher):
    """A finished run of six steps that saved at 0, 2, 3, 4 and 6; tests change copies of it."""
    launcher = make_launcher(tmp_path_factory.mktemp("finished"))
    launcher.succeed(*launcher.new("steps=6", "log_every=1", "validate_every=3", "checkpoint_every=2"))
    return launcher.only_run()


@pytest.fixture
def copied(finished, launcher):
    """A copy of the finished run, alone among the runs of `launcher`."""
    return shutil.copytree(finished, launcher.runs / finished.name)


@pytest.fixture
def unfinished(copied):
    """Such a copy that looks as if the run had been killed before its result."""
    (copied / "result.json").unlink()
    return copied


@pytest.fixture(scope="session")
def assert_one_line():
    """Checks that a command failed as it should: one line for the user, which has all the words, and no traceback."""

    def check(done: subprocess.CompletedProcess, *words: str, program: str = "train.py") -> None:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert done.returncode not in (0, None), done
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith(f"{program}: "), done.stderr
        for word in words:
            assert word in lines[0], done.stderr

    return check


@pytest.fixture(scope="session")
def assert_same():
    """Checks that two trees of tensors and plain values are equal to the last bit."""

    def check(first, second, place: str = "") -> None:
        assert type(first) is type(second), place
        if isinstance(first, torch.Tensor):
            assert (first.dtype, first.shape) == (second.dtype, second.shape), place
            # As bytes, since NaN is not equal to itself and -0 is equal to 0.
            assert first.contiguous().numpy().tobytes() == second.contiguous().numpy().tobytes(), place
        elif isinstance(first, dict):
            assert list(first) == list(second), place
            for key in first:
                check(first[key], second[key], f"{place}/{key}")
        elif isinstance(first, (list, tuple)):
            assert len(first) == len(second), place
            for index, (one, other) in enumerate(zip(first, second, strict=True)):
                check(one, other, f"{place}/{index}")
        else:
            assert first == second, place

    return check


@pytest.fixture(scope="session")
def assert_same_run(assert_same):
    """Checks that two finished runs left the same checkpoint, the same best network, metrics and result."""

    def check(first: Path, second: Path) -> None:
        assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
        for name in ("checkpoint.pt", "best.pt"):
            saved = [torch.load(run / name, weights_only=True) for run in (first, second)]
            for content in saved:
                del content["run"]  # its id
            assert_same(*saved, name)
        one, other = map(read_result, (first, second))
        compared = [key for key in one if key.startswith(("validation_", "test_"))]
        assert len(compared) >= 2
        for key in (*compared, "steps", "best_step", "parameters"):
            assert one[key] == other[key], key

    return check


@pytest.fixture
def real():
    """Returns the folder of the real data sets; skips the test if it does not have the given one."""

    def check(name):
        root = Path(os.environ.get("HYPERNETS_DATA") or ROOT / "data" / "cache")
        if not any(path.is_file() for path in (root / name).rglob("*")):
            pytest.skip(f"{name} is not in HYPERNETS_DATA")
        return root

    return check
