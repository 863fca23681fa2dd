"""Timing of whole commands: from `python train.py` to its first step, and two processes against one."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TEXT = ("dataset=shakespeare", "main_net=layer_norm_lstm", "hypernet=hyperlstm", "optimizer=adam_clipped")
TEXT += ("main_net.hidden_size=256", "compile=true", "logger=none", "budget.validate_every=1000")


def seconds_to_steps(steps: Sequence[int], *overrides: str, processes: int = 1, threads: int = 2) -> list[float]:
    """Seconds from the start of a command until each of some steps of its training is done; then it is stopped."""
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    seconds = []
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, *launch, "train.py", f"runs={runs}", "budget.log_every=1", *overrides]
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for step in steps:
            while sum(path.read_bytes().count(b"\n") for path in Path(runs).glob("*/metrics.jsonl")) < step:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended before step {step}.")
                time.sleep(0.01)
            seconds.append(time.perf_counter() - start)
        process.terminate()
        process.wait()
    return seconds


def seconds_to_first_step(rounds: int) -> float:
    """Median seconds from the start of `python train.py` to the row of its first step, all else by default."""
    measured = [seconds_to_steps([1])[0] for _ in range(rounds + 1)]
    return statistics.median(measured[1:])


def seconds_of_a_step(rounds: int) -> dict[str, float]:
    """Seconds of a step at the same global batch, one process of two threads and two processes of one, taking turns."""
    measured: dict[str, list[float]] = {"one process": [], "two processes": []}
    for _ in range(rounds):
        for name, values in measured.items():
            processes = 1 + (name == "two processes")
            begin, end = seconds_to_steps([10, 60], *TEXT, processes=processes, threads=2 // processes)
            values.append((end - begin) / 50)
    return {name: statistics.median(values) for name, values in measured.items()}
