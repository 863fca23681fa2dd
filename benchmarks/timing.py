"""Timing of contenders that take turns, so that their ratios hold where absolute times depend on the machine."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a piece of work takes, with what it left to a GPU."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Let the contenders take turns in one process.

    Returns:
        For each name the median "seconds", and as "ratio" the median over the turns of its time divided by that of
        the first contender in the same turn. The turns of the warm-up do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + warm_up):
        for name, work in contenders.items():
            seconds = timed(work, device)
            if turn >= warm_up:
                times[name].append(seconds)
    first = next(iter(times.values()))
    return {
        name: {
            "seconds": statistics.median(values),
            "ratio": statistics.median(value / base for value, base in zip(values, first, strict=True)),
        }
        for name, values in times.items()
    }
