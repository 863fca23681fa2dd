"""Networks generated from data: drawings of images, and functions of which a few points are shown."""

import numpy as np
import pytest
import torch

from data.functions import LEAST, RANGE, nearest_trained, sinusoids
from training.run import read_result, read_rows

SHARED = ["logger=none", "device=cpu", "precision=float32", "schedule=constant", "schedule.rate=0.01"]
DRAWING = [
    *("dataset=mnist_drawing", "dataset.kind=arrays", "dataset.validation_size=16", "dataset.batch_size=16", *SHARED),
    *("main_net=coordinate_mlp", "main_net.hidden_units=[8]", "main_net.frequencies=2"),
    *("steps=30", "validate_every=15"),
]
SINUSOIDS = [
    *("dataset=sinusoids", "main_net=coordinate_mlp", "main_net.hidden_units=[16]", "main_net.frequencies=0", *SHARED),
    *("steps=60", "validate_every=30"),
]
GENERATED = ["hypernet=component_wise", "hypernet.units=[16]"]
CONDITION = ["hypernet.condition=data", "hypernet.condition_size=8"]
ATTENTION = [*GENERATED, "hypernet.body=attention", "+hypernet.condition_is_set=true", "hypernet.condition=data"]


@pytest.fixture
def digits(tmp_path):
    """Images of 6x6 pixels that are bright in one quarter, which the code has to tell."""
    labels = np.arange(60) % 4
    images = np.zeros((60, 2, 3, 2, 3), dtype=np.uint8)
    images[range(60), labels // 2, :, labels % 2, :] = 255
    arrays = {"x_train": images.reshape(60, 6, 6), "y_train": labels, "x_test": images.reshape(60, 6, 6)}
    np.savez(tmp_path / "digits.npz", **arrays, y_test=labels)
    return f"+dataset.path={tmp_path / 'digits.npz'}"


def result_of(launcher, *arguments):
    """The test of a run, which must have learned something."""
    launcher.succeed(*arguments, f"runs={launcher.runs}")
    rows = [row["validation/mse"] for row in read_rows(launcher.only_run()) if "validation/mse" in row]
    assert rows[-1] < rows[0]
    return read_result(launcher.only_run())["test"]


@pytest.mark.parametrize(
    ("hypernet", "shown"),
    [
        ([*GENERATED, *CONDITION], "12"),
        pytest.param([*GENERATED, *CONDITION], "null", marks=pytest.mark.slow),
        (["hypernet=none", *("+" + each for each in CONDITION)], "null"),
    ],
)
def test_drawings_depend_on_their_image(launcher, digits, hypernet, shown):
    test = result_of(launcher, *DRAWING, digits, *hypernet, f"dataset.shown_pixels={shown}")
    assert test["mse"] < test["mse_shuffled_condition"] and test["mse"] < 1
    assert ("weight_spread" in test) == (hypernet[0] != "hypernet=none")
    (picture,) = (launcher.only_run() / "pictures").iterdir()
    assert picture.name == "drawings.png"


@pytest.mark.parametrize(
    "hypernet",
    [
        pytest.param([*GENERATED, *CONDITION], marks=pytest.mark.slow),
        [*ATTENTION, "hypernet.condition_size=2"],
        pytest.param(
            [*GENERATED, "hypernet.condition=parameters", "hypernet.condition_size=2"], marks=pytest.mark.slow
        ),
    ],
    ids=["mean", "attention", "parameters"],
)
def test_functions_depend_on_their_points(launcher, hypernet):
    test = result_of(launcher, *SINUSOIDS, *hypernet)
    assert test["weight_spread"] > 0.001 and test["mse_nearest_trained"] > 0
    assert test["mse"] != test["mse_shuffled_condition"] != test["mse_mean_condition"]


@pytest.mark.parametrize(
    ("hypernet", "word"),
    [
        (["+hypernet.condition=data", "+hypernet.condition_size=8", "+hypernet.units=[7]"], "hypernet.units"),
        (["+hypernet.condition=parameters", "+hypernet.condition_size=3"], "hypernet.condition_size is 3"),
        ([], "set +hypernet.condition="),
    ],
)
def test_settings_of_the_code_that_do_not_fit_are_refused(launcher, assert_one_line, hypernet, word):
    assert_one_line(launcher.call(*SINUSOIDS, "hypernet=none", *hypernet, f"runs={launcher.runs}"), word)


def test_functions_of_the_test_are_never_trained():
    splits = sinusoids(points=10, batch_size=50, seed=3, device="cpu")
    assert all(torch.equal(one, other) for one, other in zip(splits.train.batch(7), splits.train.batch(7), strict=True))
    for split, held_out in ((splits.train, False), (splits.validation, False), (splits.test, True)):
        batch = split.batch(0)
        middle = (((batch.parameters - LEAST) / RANGE - 0.5).abs() < 1 / 6).all(dim=1)
        assert (middle == held_out).all()
        amplitude, phase = batch.parameters[:, None].unbind(2)
        torch.testing.assert_close(batch.y[:, :, 0], amplitude * torch.sin(batch.x[:, :, 0] - phase))
        moved = nearest_trained(batch.parameters)
        assert torch.allclose(moved, batch.parameters) != held_out
        assert ((((moved - LEAST) / RANGE - 0.5).abs() > 1 / 6 - 1e-6).any(dim=1)).all()
