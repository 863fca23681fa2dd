"""Runs of the other tasks go on exactly after they were killed; slower tasks have such tests in files of their own."""

import numpy as np
import pytest

from data.build import IMAGE_SETS
from data.sources import ImageArrays

MLP = ["main_net=mlp", "main_net.hidden_units=[6]"]
COORDINATE_MLP = ["main_net=coordinate_mlp", "main_net.hidden_units=[6]", "main_net.frequencies=2"]
FEW_IMAGES = ["dataset.validation_size=12", "dataset.batch_size=12"]
GENERATED = ["hypernet=component_wise", "hypernet.units=[6]", "hypernet.condition_size=4"]
DENOISER = ["dataset=mnist_styles", *FEW_IMAGES, "main_net=denoiser", "main_net.units=8", "main_net.blocks=1"]
TASKS = {
    "figure8": ["dataset=mnist", *FEW_IMAGES, "main_net=fully_connected", "hypernet=coordinates"],
    "any_architecture": [
        *("dataset=mnist_any_architecture", *FEW_IMAGES, "dataset.depths=[1,2]", "dataset.widths=[4,8]", *MLP),
        *("dataset.held_out=[[2,4]]", "main_net.hidden_units=[8,8]"),
        *("hypernet=described", "hypernet.component=[8,8]", "hypernet.units=[6]"),
    ],
    "drawing": ["dataset=mnist_drawing", *FEW_IMAGES, *COORDINATE_MLP, *GENERATED, "hypernet.condition=data"],
    "sinusoids": ["dataset=sinusoids", *COORDINATE_MLP, *GENERATED, "hypernet.condition=data"],
    "cubic": ["dataset=toy_cubic", *MLP, *GENERATED, "hypernet.condition=noise"],
    "unknown": ["dataset=mnist_or_fashion", *FEW_IMAGES, *MLP, *GENERATED, "hypernet.condition=noise"],
    "style": [*DENOISER, "hypernet=key_value"],
}


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(48, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(48) % 10
    for name in ("mnist", "fashion_mnist"):
        monkeypatch.setitem(IMAGE_SETS, name, lambda root: ImageArrays(images, labels, images, labels, num_classes=10))
    monkeypatch.setattr("training.tasks.styled_diffusion.SAMPLING_STEPS", 2)
    monkeypatch.setattr("training.tasks.styled_diffusion.CLASSIFIER_STEPS", 2)


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_goes_on_exactly(launcher, kill_before, assert_same_run, task):
    length = ["steps=6", "log_every=1", "checkpoint_every=2", "validate_every=3"]
    run = [*length, "logger=none", "device=cpu", "precision=float32", f"runs={launcher.runs}", *TASKS[task]]
    if task == "style":
        launcher.succeed(*run[: -len(TASKS[task])], *DENOISER, "hypernet=none", "run=base")
        run.append(f"dataset.path={launcher.runs / 'base'}")
    launcher.succeed("run=whole", *run)
    # The newest checkpoint is that of step 4, or of step 3 if it was the best.
    kill_before(5, lambda: launcher.succeed("run=killed", *run))
    launcher.succeed("run=killed", *run)
    assert_same_run(launcher.runs / "whole", launcher.runs / "killed")
