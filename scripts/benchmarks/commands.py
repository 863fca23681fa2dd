"""Timing of whole commands: from `python train.py` to its first step, and two processes against one."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TEXT = ("dataset=shakespeare", "main_net=layer_norm_lstm", "hypernet=hyperlstm", "optimizer=adam_clipped")


def seconds_to_first_step(rounds: int) -> float:
    """Median seconds from the start of `python train.py` to the row of its first step, all else by default."""
    measured = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as runs:
            command = [sys.executable, "train.py", f"runs={runs}", "budget.log_every=1"]
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not any(path.stat().st_size for path in Path(runs).glob("*/metrics.jsonl")):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended before its first step.")
                time.sleep(0.01)
            measured.append(time.perf_counter() - start)
            process.terminate()
            process.wait()
    return statistics.median(measured[1:])


def seconds_per_step(processes: int, threads: int, few: int = 10, many: int = 40) -> float:
    """Seconds of a step of a Layer Norm HyperLSTM of 256 units: what more steps add to a run, over their number."""
    seconds = []
    for steps in (few, few, many):  # the first run compiles, for all
        with tempfile.TemporaryDirectory() as runs:
            settings = (f"runs={runs}", "logger=none", f"budget.steps={steps}", "main_net.hidden_size=256")
            settings += ("budget.validate_every=1000", "dataset.test_streams=128", "compile=true")
            launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, *launch, "train.py", *TEXT, *settings]
            subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True)
            (result,) = Path(runs).glob("*/result.json")
            seconds.append(json.loads(result.read_text())["seconds"])
    return (seconds[2] - seconds[1]) / (many - few)


def two_processes_against_one() -> dict[str, float]:
    """Seconds of a step at the same global batch, one process of two threads and two processes of one."""
    return {"one process": seconds_per_step(1, 2), "two processes": seconds_per_step(2, 1)}
