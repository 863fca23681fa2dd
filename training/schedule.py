"""Learning rates as pure functions of the step, so that resuming needs nothing but the step."""

import math
from collections.abc import Callable, Sequence


def piecewise_constant(until: Sequence[int], rates: Sequence[float]) -> Callable[[int], float]:
    """The rate rates[i] up to step until[i] (Tables 8 and 9); the last one also beyond.

    Raises:
        ValueError: lists of different lengths, boundaries that do not increase, or a rate that makes no sense.
    """
    _check_rates(rates=rates)
    if len(until) != len(rates) or not rates or list(until) != sorted(set(until)):
        raise ValueError(
            "A piecewise constant schedule needs one rate for each of its increasing steps; "
            f"it got until={list(until)} and rates={list(rates)}."
        )
    return lambda step: next((rate for end, rate in zip(until, rates, strict=True) if step < end), rates[-1])


def one_cycle(peak: float, warmup: float, steps: int) -> Callable[[int], float]:
    """Linear warm-up from a tenth of `peak` over the fraction `warmup` of all `steps`, then a half cosine to zero.

    Raises:
        ValueError: a warm-up that is not in [0, 1), or a peak that makes no sense.
    """
    _check_rates(peak=[peak])
    if not 0 <= warmup < 1:
        raise ValueError(f"schedule.warmup is {warmup}; it must be a fraction of the steps, at least 0 and below 1.")
    rising = warmup * steps

    def rate(step: int) -> float:
        if step < rising:
            return peak * (0.1 + 0.9 * step / rising)
        return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    return rate


def constant(rate: float) -> Callable[[int], float]:
    """The same rate at every step.

    Raises:
        ValueError: a rate that makes no sense.
    """
    _check_rates(rate=[rate])
    return lambda step: rate


def _check_rates(**rates: Sequence[float]) -> None:
    for name, values in rates.items():
        for value in values:
            if not 0 < value < math.inf:
                raise ValueError(f"schedule.{name} has a learning rate of {value}; it must be a number above 0.")


def build_schedule(name: str, steps: int, **settings) -> Callable[[int], float]:
    """Make the schedule of this name for a run of `steps` steps.

    Raises:
        ValueError: an unknown name.
    """
    if name == "one_cycle":
        return one_cycle(steps=steps, **settings)
    if name == "piecewise_constant":
        return piecewise_constant(**settings)
    if name == "constant":
        return constant(**settings)
    raise ValueError(f"There is no schedule {name!r}; choose one_cycle, piecewise_constant or constant.")
