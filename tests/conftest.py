"""How the tests start train.py: as a process, or in this one where that makes no difference and saves its start."""

import gc
import io
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


class Launcher:
    """Starts train.py with run directories of its own.

    Args:
        runs: where the runs go.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.started: list[subprocess.Popen] = []
        # One thread in every process, so that their sums agree to the last bit; a proxy that is not there, so that no
        # test depends on whether there is a network.
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }

    def new(self, *overrides: str) -> list[str]:
        """The command line of a run of a second or so on the bundled sample; `overrides` come last."""
        sizes = ["main_net.depth=10", "dataset.batch_size=16", "logger=none", "device=cpu"]
        return [*sizes, f"runs={self.runs}", *overrides]

    def start(self, *arguments: str, program: tuple[str, ...] = ("train.py",)) -> subprocess.Popen:
        """Start a process; the fixture kills it at the end of the test if it still runs then."""
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=ROOT,
            env=self.environment,
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

    def run(self, *arguments: str, program: tuple[str, ...] = ("train.py",)) -> subprocess.CompletedProcess:
        """Start a process and wait for it."""
        return self.finish(self.start(*arguments, program=program))

    def call(self, *arguments: str) -> subprocess.CompletedProcess:
        """Do in this process what `run` does in a new one, without the seconds that its start takes."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            for name in ("http_proxy", "https_proxy"):
                patch.setenv(name, self.environment[name])
            done = call_program(ROOT / "train.py", *arguments)
        torch.set_num_threads(threads)
        gc.collect()  # a run that ended in an error keeps its lock as long as the traceback lives
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
        (run,) = self.runs.iterdir()
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
    return subprocess.CompletedProcess(arguments, returncode, stdout.getvalue(), stderr.getvalue())


def number_of_rows(run: Path) -> int:
    """Rows in a run's metrics file; 0 where there is none yet."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> None:
    """Wait for a condition that a running process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended early with {process.returncode}: {process.communicate()}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


@pytest.fixture(scope="session")
def run_in_process():
    """The function `call_program`."""
    return call_program


@pytest.fixture(scope="session")
def make_launcher():
    """Makes launchers; kills at the end what they started and left running."""
    made: list[Launcher] = []

    def make(runs: Path) -> Launcher:
        made.append(Launcher(runs))
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


@pytest.fixture(scope="module")
def restored_environment():
    """Keeps changes to the environment, such as wandb's, from other tests and their processes."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def assert_one_line():
    """Checks that a command failed as it should: one line for the user, which has all the words, and no traceback."""

    def check(done: subprocess.CompletedProcess, *words: str) -> None:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert done.returncode not in (0, None), done
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("train.py: "), done.stderr
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
            one, other = (torch.load(run / name, weights_only=True) for run in (first, second))
            assert_same(one, other, name)
        one, other = (json.loads((run / "result.json").read_text()) for run in (first, second))
        for key in ("steps", "best_step", "parameters", "validation_error", "test_error"):
            assert one[key] == other[key], key

    return check
