"""The benchmarks: what they count, and how figures become tables."""

from collections import deque

import torch

from benchmarks import report, timing
from benchmarks.recurrent import STEPS, memory_of_forms


def test_operations_of_a_training_step(launcher):
    def convolution(c_in, c_out, size):
        return 2 * 9 * c_in * c_out * size**2

    stem, classifier = convolution(3, 16, 32), 2 * 64 * 10
    forward = stem + 12 * convolution(16, 16, 32) + classifier
    forward += convolution(16, 32, 16) + 11 * convolution(32, 32, 16)
    forward += convolution(32, 64, 8) + 11 * convolution(64, 64, 8)
    done = launcher.succeed("--quick", "--only", "counts", program="benchmarks/__main__.py")
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("| WRN-40-1 |"))
    plain, hyper = (int(cell.replace(",", "")) for cell in row.split("|")[2:4])
    assert plain == 3 * forward - stem  # no gradient with respect to the images
    assert 1 < hyper / plain < 1.01


def test_the_quick_benchmark_has_no_first_step(launcher):
    done = launcher.call("--quick", "--only", "first_step", program="benchmarks/__main__.py")
    assert done.returncode == 2 and "choose from recurrent, images, counts" in done.stderr


def test_memory_of_both_forms_of_a_hyperrnn():
    full, row_scaled = memory_of_forms(torch.device("cpu")).values()
    of_main_network = 4 * 1000 * (1000 + 50) * 4 / 1e6  # W_hz and W_xz for N_z = 4, in megabytes
    assert of_main_network < full["parameters"] < 1.1 * of_main_network
    assert row_scaled["parameters"] < full["parameters"] / 3
    states = STEPS * 32 * 1000 * 4 / 1e6  # h at every step
    assert full["kept"] > 4 * states and states < row_scaled["kept"] < full["kept"] / 2


def test_contenders_take_turns(monkeypatch):
    clock, turns = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def contender(name, *seconds):
        remaining = deque([9.0] * timing.WARM_UP + list(seconds))

        def work():
            turns.append(name)
            clock[0] += remaining.popleft()

        return work

    contenders = {"first": contender("first", 1, 2, 4), "second": contender("second", 3, 2, 2)}
    measured = timing.alternate(contenders, 3, torch.device("cpu"))
    assert turns == ["first", "second"] * (timing.WARM_UP + 3)
    assert measured == {"first": {"seconds": 2, "ratio": 1}, "second": {"seconds": 2, "ratio": 1}}  # of 3, 1 and 1/2


def test_table_of_the_recurrent_layers():
    base, other = {"seconds": 0.5, "ratio": 1.0}, {"seconds": 0.7, "ratio": 1.4}
    cases = {
        "narrow": {"float32": {"LSTM": base, "ours": base, "products": other}, "bf16": {"LSTM": other, "ours": other}}
    }
    assert report.against_built_in(cases)[2:-1] == [
        "| narrow | LSTM | 0.500 s | 0.700 s |",
        "| narrow | ours | 1.00 | 1.40 |",
        "| narrow | products | 1.40 |  |",
    ]
