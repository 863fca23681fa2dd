"""Learning rates as pure functions of the step, so that resuming needs nothing but the step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from hypernets import UserError
from hypernets.errors import call_with_settings, require_number, require_whole

Schedule = Callable[[int], float]


def constant(steps: int, rate: float) -> Schedule:
    """The same rate at every step."""
    require_number("schedule.rate", rate, above=0)
    return lambda step: rate


def one_cycle(steps: int, peak: float, warmup: float) -> Schedule:
    """Linear warm-up from a tenth of `peak` over the fraction `warmup` of all `steps`, then half a cosine to zero."""
    require_number("schedule.peak", peak, above=0)
    require_number("schedule.warmup", warmup, least=0, below=1)
    rising = warmup * steps

    def rate(step: int) -> float:
        if step < rising:
            return peak * (0.1 + 0.9 * step / rising)
        return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    return rate


def repeated_cycle(steps: int, peak: float, warmup: float, period: int) -> Schedule:
    """One cycle after another, each of `period` steps, such as one for each of a sequence of tasks."""
    require_whole("schedule.period", period)
    rate = one_cycle(period, peak, warmup)
    return lambda step: rate(step % period)


def piecewise_constant(steps: int, until: list[int], rates: list[float]) -> Schedule:
    """The rate rates[i] up to step until[i] (Tables 8 and 9)."""
    whole = all(isinstance(each, list) for each in (until, rates)) and all(type(end) is int for end in until)
    if not whole or len(until) != len(rates) or not rates or until != sorted(set(until)):
        raise UserError(
            "A piecewise constant schedule needs one rate for each of its increasing steps; "
            f"it got schedule.until={until} and schedule.rates={rates}."
        )
    for rate in rates:
        require_number("schedule.rates", rate, above=0)
    if steps > until[-1]:
        raise UserError(
            f"steps is {steps}, but the schedule has no rate after step {until[-1]}; set schedule.until and "
            "schedule.rates, or choose another schedule, such as schedule=one_cycle."
        )
    return lambda step: next((rate for end, rate in zip(until, rates, strict=True) if step < end), rates[-1])


SCHEDULES = {
    "constant": constant,
    "one_cycle": one_cycle,
    "repeated_cycle": repeated_cycle,
    "piecewise_constant": piecewise_constant,
}


def build_schedule(settings: Mapping[str, Any], steps: int) -> Schedule:
    """Make the schedule that the configuration group describes, for a run of `steps` steps."""
    kind = settings["kind"]
    if kind not in SCHEDULES:
        raise UserError(f"schedule.kind is {kind!r}; it must be one of {', '.join(SCHEDULES)}.")
    others = {key: value for key, value in settings.items() if key != "kind"}
    return call_with_settings(SCHEDULES[kind], "schedule", others, steps)
