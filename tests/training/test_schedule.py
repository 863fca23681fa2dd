"""Learning rates at each step."""

import math

import pytest

from training.schedule import build_schedule, constant, one_cycle, piecewise_constant

TABLE_8 = piecewise_constant([28000, 56000, 84000, 112000, 140000], [0.1, 0.02, 0.004, 0.0008, 0.00016])
TABLE_9 = piecewise_constant([168000, 336000, 504000, 672000], [0.002, 0.001, 0.0002, 0.00005])


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        (TABLE_8, 0, 0.1),
        (TABLE_8, 27999, 0.1),
        (TABLE_8, 28000, 0.02),
        (TABLE_8, 83999, 0.004),
        (TABLE_8, 84000, 0.0008),
        (TABLE_8, 112000, 0.00016),
        (TABLE_8, 139999, 0.00016),
        (TABLE_8, 200000, 0.00016),
        (TABLE_9, 0, 0.002),
        (TABLE_9, 167999, 0.002),
        (TABLE_9, 168000, 0.001),
        (TABLE_9, 336000, 0.0002),
        (TABLE_9, 503999, 0.0002),
        (TABLE_9, 504000, 0.00005),
        (TABLE_9, 671999, 0.00005),
    ],
)
def test_tables_8_and_9(schedule, step, rate):
    assert schedule(step) == rate


def test_one_cycle():
    rate = one_cycle(peak=0.4, warmup=0.25, steps=100)
    assert rate(0) == pytest.approx(0.04)
    assert rate(25) == pytest.approx(0.4)
    assert rate(24) == pytest.approx(0.04 + 0.36 * 24 / 25)
    assert rate(25 + 75 / 2) == pytest.approx(0.2)
    assert 0 < rate(99) == pytest.approx(0.2 * (1 + math.cos(math.pi * 74 / 75)))
    assert rate(100) == pytest.approx(0, abs=1e-12)
    assert max(rate(step) for step in range(100)) == rate(25)


def test_one_cycle_without_warmup():
    assert one_cycle(peak=0.4, warmup=0, steps=3)(0) == pytest.approx(0.4)


def test_constant():
    assert {constant(0.1)(step) for step in (0, 1, 10**9)} == {0.1}


@pytest.mark.parametrize("bad", [0.0, -0.1, math.inf, math.nan])
def test_bad_rates(bad):
    for schedule in (
        lambda: piecewise_constant([1, 2], [0.1, bad]),
        lambda: one_cycle(bad, warmup=0, steps=3),
        lambda: constant(bad),
    ):
        with pytest.raises(ValueError, match=f"learning rate of {bad}; it must be a number above 0"):
            schedule()


@pytest.mark.parametrize(
    ("until", "rates"), [([1, 2], [0.1]), ([], []), ([2, 1], [0.1, 0.2]), ([1, 1], [0.1, 0.2]), ([1], [0.1, 0.2])]
)
def test_bad_pieces(until, rates):
    with pytest.raises(ValueError, match="one rate for each"):
        piecewise_constant(until, rates)


@pytest.mark.parametrize("warmup", [-0.1, 1, 1.5])
def test_bad_warmup(warmup):
    with pytest.raises(ValueError, match="schedule.warmup"):
        one_cycle(peak=0.1, warmup=warmup, steps=10)


def test_by_name():
    assert build_schedule("constant", steps=10, rate=0.3)(5) == 0.3
    assert build_schedule("one_cycle", steps=10, peak=0.3, warmup=0.5)(5) == pytest.approx(0.3)
    assert build_schedule("piecewise_constant", steps=10, until=[1, 2], rates=[1, 2])(1) == 2
    with pytest.raises(ValueError, match="no schedule 'step'"):
        build_schedule("step", steps=10)
