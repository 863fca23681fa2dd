"""Learning rates at each step."""

import math

import pytest

from hypernets import UserError
from training.schedule import build_schedule

TABLE_8 = [28000, 56000, 84000, 112000, 140000], [0.1, 0.02, 0.004, 0.0008, 0.00016]
TABLE_9 = [168000, 336000, 504000, 672000], [0.002, 0.001, 0.0002, 0.00005]


def schedule(steps=100, **settings):
    return build_schedule(settings, steps)


def piecewise_constant(until, rates, steps=1):
    return schedule(steps, kind="piecewise_constant", until=until, rates=rates)


@pytest.mark.parametrize(("until", "rates"), [TABLE_8, TABLE_9])
def test_tables_8_and_9(until, rates):
    rate = piecewise_constant(until, rates, steps=until[-1])
    for start, end, expected in zip([0, *until], until, rates, strict=False):
        assert rate(start) == rate(end - 1) == expected


def test_one_cycle():
    rate = schedule(kind="one_cycle", peak=0.4, warmup=0.25)
    assert rate(0) == pytest.approx(0.04)
    assert rate(25) == pytest.approx(0.4)
    assert rate(24) == pytest.approx(0.04 + 0.36 * 24 / 25)
    assert rate(25 + 75 / 2) == pytest.approx(0.2)
    assert 0 < rate(99) == pytest.approx(0.2 * (1 + math.cos(math.pi * 74 / 75)))
    assert max(rate(step) for step in range(100)) == rate(25)
    assert schedule(kind="one_cycle", peak=0.4, warmup=0)(0) == pytest.approx(0.4)


def test_a_repeated_cycle_starts_again_with_each_period():
    one = schedule(40, kind="one_cycle", peak=0.4, warmup=0.25)
    rate = schedule(100, kind="repeated_cycle", peak=0.4, warmup=0.25, period=40)
    assert [rate(step) for step in range(100)] == [one(step % 40) for step in range(100)]


def test_constant():
    assert {schedule(kind="constant", rate=0.1)(step) for step in (0, 1, 10**9)} == {0.1}


@pytest.mark.parametrize("bad", [0.0, -0.1, math.inf, math.nan, "fast", None])
def test_bad_rates(bad):
    for settings in (
        {"kind": "piecewise_constant", "until": [1, 200], "rates": [0.1, bad]},
        {"kind": "one_cycle", "peak": bad, "warmup": 0},
        {"kind": "constant", "rate": bad},
    ):
        with pytest.raises(UserError, match=f"is {bad!r}; it must be a number above 0"):
            schedule(**settings)


@pytest.mark.parametrize(("until", "rates"), [([1, 2], [0.1]), ([], []), ([1, 1], [0.1, 0.2]), (3, 0.1)])
def test_bad_pieces(until, rates):
    with pytest.raises(UserError, match="one rate for each"):
        piecewise_constant(until, rates)


def test_other_nonsense():
    for warmup in (-0.1, 1, 1.5):
        with pytest.raises(UserError, match="schedule.warmup"):
            schedule(kind="one_cycle", peak=0.1, warmup=warmup)
    with pytest.raises(UserError, match="no rate after step 140000"):
        piecewise_constant(*TABLE_8, steps=672_000)
    with pytest.raises(UserError, match="'step'"):
        schedule(kind="step")
