"""Timing of contenders that take turns, so that their ratios hold where absolute times depend on the machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

WARM_UP = 2  # turns that do not count


def alternate(
    contenders: Mapping[Any, Callable[[], object]], rounds: int, device: torch.device
) -> dict[Any, dict[str, float]]:
    """Let the contenders take turns in one process.

    Returns:
        For each name the median "seconds", and as "ratio" the median over the turns of its time divided by that of
        the first contender in the same turn.
    """
    times: dict[Any, list[float]] = {name: [] for name in contenders}
    for _ in range(WARM_UP + rounds):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    counted = {name: seconds[WARM_UP:] for name, seconds in times.items()}
    first = next(iter(counted.values()))
    return {
        name: {
            "seconds": statistics.median(values),
            "ratio": statistics.median(value / base for value, base in zip(values, first, strict=True)),
        }
        for name, values in counted.items()
    }
