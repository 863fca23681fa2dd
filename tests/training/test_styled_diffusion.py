"""Diffusion of digits in a style: a base model, and what is adapted to it."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from data.build import IMAGE_SETS, build_images
from data.sources import ImageArrays
from data.styles import slanted_mnist, thick_mnist
from models import denoiser
from training.run import read_result
from training.tasks.styled_diffusion import StyledDiffusion, signal_and_noise

SMALL = [
    *("dataset=mnist_styles", "dataset.validation_size=10", "dataset.batch_size=20", "main_net=denoiser"),
    *("main_net.units=8", "main_net.blocks=1", "schedule=constant", "schedule.rate=0.01", "steps=4"),
    *("validate_every=4", "logger=none", "device=cpu", "precision=float32"),
]

ON_CPU = {"seed": 0, "device": "cpu", "rank": 0, "world_size": 1}


def digits(root):
    images = np.zeros((60, 28, 28, 1), dtype=np.uint8)
    images[:, 4:24, 12:16] = 255  # upright strokes
    labels = np.arange(60) % 10
    images[range(60), 26, 2 * labels] = 255  # which tells the class
    return ImageArrays(images, labels, images, labels, num_classes=10)


@pytest.fixture(autouse=True)
def small_digits(monkeypatch):
    monkeypatch.setitem(IMAGE_SETS, "mnist", digits)
    monkeypatch.setattr("data.styles.mnist", digits)
    monkeypatch.setattr("training.tasks.styled_diffusion.SAMPLING_STEPS", 3)
    monkeypatch.setattr("training.tasks.styled_diffusion.CLASSIFIER_STEPS", 3)


def test_slanted_digits_lean_to_the_right(tmp_path):
    (image,) = slanted_mnist(tmp_path).test_images[:1, :, :, 0]
    columns = (image.astype(float) * np.arange(28)).sum(1) / image.astype(float).sum(1).clip(1)
    assert columns[6] > columns[14] + 2 > columns[22] + 4


def test_thick_digits_are_two_pixels_wider(tmp_path):
    (image,) = thick_mnist(tmp_path).test_images[:1, :, :, 0]
    assert (image[10] > 0).sum() == 4 + 2 and (image[:25, 13] > 0).sum() == 20 + 2


def test_the_classifier_of_samples_also_learns_within_autocast(monkeypatch):
    monkeypatch.setattr("training.tasks.styled_diffusion.CLASSIFIER_STEPS", 200)
    network = denoiser.build((1, 28, 28), 10, units=8, blocks=1)
    splits = build_images({"kind": "mnist", "validation_size": 10, "batch_size": 20, "root": None}, **ON_CPU)
    task = StyledDiffusion(network, splits)
    images, labels = splits.train.batch(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task._misread(images, labels) < 10


class Knowing(nn.Module):
    """Predicts the noise exactly, since it knows the image."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, noisy, time, labels):
        signal, strength = signal_and_noise(time)
        return (noisy - signal * self.image) / strength


class Silent(nn.Module):
    """Predicts no noise."""

    def forward(self, noisy, time, labels):
        return torch.zeros_like(noisy)


def test_the_loss_is_the_error_of_the_noise():
    image = torch.rand(1, 28, 28)
    batch = image.expand(64, 1, 28, 28), torch.zeros(64, dtype=torch.long)
    torch.manual_seed(0)
    assert StyledDiffusion(Knowing(image), None)(batch, None)[0] < 1e-6
    assert StyledDiffusion(Silent(), None)(batch, None)[0].item() == pytest.approx(1, rel=0.02)  # its variance


def test_sampling_ends_at_the_image_that_the_noise_hides():
    image = torch.rand(1, 28, 28)
    task = StyledDiffusion(Knowing(image), None)
    drawn = task.sample(torch.zeros(4, dtype=torch.long), (1, 28, 28))
    signal, strength = signal_and_noise(torch.zeros(1))
    assert strength.item() < 0.04 and (drawn - signal * image).abs().max() < 5 * strength.item()


def test_a_style_is_learned_in_front_of_a_frozen_model(launcher, assert_one_line):
    launcher.succeed(*SMALL, "hypernet=none", "run=base", f"runs={launcher.runs}")
    base = torch.load(launcher.runs / "base" / "best.pt", weights_only=True)["network"]
    style = ["dataset.kind=slanted_mnist", f"dataset.path={launcher.runs / 'base'}", f"runs={launcher.runs}"]
    for hypernet, trained in (("key_value", 2 * (8 * 16 + 16 + 16 * 8 + 8)), ("low_rank", None), ("none", None)):
        launcher.succeed(*SMALL, *style, f"hypernet={hypernet}", f"run={hypernet}")
        result = read_result(launcher.runs / hypernet)
        assert 0 <= result["test"]["misread_samples"] <= 100
        if trained:
            assert result["parameters"] == trained
            assert result["test"]["noise_error_frozen"] != result["test"]["noise_error"]
            assert 0 <= result["test"]["misread_samples_frozen"] <= 100
            saved = torch.load(launcher.runs / hypernet / "best.pt", weights_only=True)["network"]
            assert all(torch.equal(saved[f"frozen_model.{name}"], value) for name, value in base.items())
        if hypernet == "low_rank":
            matrices = [name for name, value in base.items() if name.startswith("blocks.") and value.dim() == 2]
            assert result["parameters"] == 8 * sum(sum(base[name].shape) for name in matrices)
            saved = torch.load(launcher.runs / hypernet / "best.pt", weights_only=True)["network"]
            for name, value in base.items():
                path, _, last = name.rpartition(".")
                kept = f"{path}.parametrizations.{last}.original" if name in matrices else name
                assert torch.equal(saved[kept], value)
    facts = [
        json.loads((launcher.runs / run / "run.json").read_text())["data"] for run in ("key_value", "none", "base")
    ]
    assert facts[0] == facts[1] != facts[2]  # the digest covers the model that is adapted
    done = launcher.call(*SMALL, "hypernet=key_value", "run=alone", f"runs={launcher.runs}")
    assert_one_line(done, "dataset.path is null", "hypernet=key_value")
    missing = f"dataset.path={launcher.runs / 'missing'}"
    done = launcher.call(*SMALL, "hypernet=key_value", "run=alone", missing, f"runs={launcher.runs}")
    assert_one_line(done, "no trained model in", "experiment=taxonomy/style_base run=taxonomy-style_base-s0")
