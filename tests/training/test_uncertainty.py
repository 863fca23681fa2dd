"""Networks that say how sure they are: the posterior term, its controls, and runs of the cubic."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from data.build import IMAGE_SETS
from data.sources import ImageArrays
from models.sampled_networks import NoiseConditioned, build_sampled
from training.run import read_result, read_rows
from training.tasks.uncertain_classification import UncertainClassification, auroc, calibration_error
from training.tasks.uncertain_regression import NOISE, SCALE, UncertainRegression

HYPERNET = {"kind": "once", "body": "mlp", "units": [8], "embedding_size": 4, "condition": "noise", "condition_size": 3}


def network():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def test_posterior_term_is_the_divergence_of_gaussians():
    torch.manual_seed(0)
    sampled = NoiseConditioned(network(), HYPERNET)
    weights = sampled.network.weights(torch.randn(1000, 3))
    expected = 0.0
    for name, weight in weights.items():
        q = torch.distributions.Normal(weight.mean(0), weight.std(0))
        expected += torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, sampled.prior[name])).sum()
    torch.testing.assert_close(sampled.divergence(weights), expected, rtol=1e-3, atol=1e-3)
    same = {name: weight[:1].expand_as(weight) for name, weight in weights.items()}
    assert sampled.divergence(same) > 2 * expected, "weights that have become one are far from the prior"


@pytest.mark.parametrize("hypernet", [{"kind": "none"}, {"kind": "separate", "members": 5}, HYPERNET])
def test_samples_for_evaluation_are_always_the_same(hypernet):
    torch.manual_seed(0)
    sampled = build_sampled(lambda: nn.Sequential(network(), nn.Dropout(0.5)), hypernet).eval()
    x, state = torch.randn(6, 2), torch.get_rng_state()
    outputs = sampled.sampled(x, samples=5)
    assert outputs.shape == (5, 6, 1) and outputs.std(dim=0).min() > 0
    assert torch.equal(outputs, sampled.sampled(x, samples=5))
    assert torch.equal(torch.get_rng_state(), state) and not any(module.training for module in sampled.modules())


def test_samples_for_evaluation_leave_batch_norm_as_it_is():
    sampled = build_sampled(lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)), {"kind": "none"}).eval()
    x = torch.randn(6, 2)
    outputs = sampled.sampled(x, samples=3)
    assert torch.equal(sampled.network[0].running_mean, torch.zeros(2)), "evaluation learns nothing"
    kept = outputs != 0
    assert not kept.all()
    torch.testing.assert_close(outputs[kept], (2 * x).expand_as(outputs)[kept], rtol=1e-4, atol=1e-4)


CUBIC = [
    *("dataset=toy_cubic", "main_net=mlp", "main_net.hidden_units=[8]", "precision=float32", "schedule=constant"),
    *("schedule.rate=0.02", "steps=150", "validate_every=50", "logger=none", "device=cpu"),
]


@pytest.mark.parametrize(
    "hypernet",
    [
        ["hypernet=once", "hypernet.units=[8]", "hypernet.condition=noise", "hypernet.condition_size=4"],
        pytest.param(["hypernet=separate", "+hypernet.members=3"], marks=pytest.mark.slow),
        pytest.param(["hypernet=none", "main_net.dropout=0.1"], marks=pytest.mark.slow),
    ],
    ids=lambda overrides: overrides[0],
)
def test_cubic(launcher, hypernet):
    launcher.succeed(*CUBIC, *hypernet, f"runs={launcher.runs}")
    rows = [row for row in read_rows(launcher.only_run()) if "validation/nll" in row]
    assert rows[-1]["validation/nll"] < rows[0]["validation/nll"]
    test = read_result(launcher.only_run())["test"]
    assert test["spread_outside"] > test["spread_inside"] > 0 and 0 < test["coverage"] <= 100
    assert test["nll"] >= math.log(NOISE) + 0.5 * math.log(2 * math.pi)
    assert {"nll_mean_condition", "weight_spread"} <= test.keys() or hypernet[0] != "hypernet=once"


class Fixed(nn.Module):
    """Two functions that differ by a known amount, and a divergence of six nats."""

    def forward(self, x, samples):
        return self.sampled(x, samples), torch.tensor(6.0)

    def sampled(self, x, samples):
        return torch.stack([torch.zeros_like(x), torch.full_like(x, 4 / SCALE)])


def test_posterior_term_is_divided_by_the_data_and_coverage_is_of_two_deviations():
    batch, losses = (torch.zeros(4, 1), torch.zeros(4, 1)), []
    for posterior in (0.0, 0.5):
        losses.append(UncertainRegression(Fixed(), 2, posterior, points=20)(batch, None)[0])
    assert (losses[1] - losses[0]).item() == pytest.approx(0.5 * 6 / 20)
    deviation = math.sqrt(2**2 + NOISE**2)  # about the mean of 2
    y = 2 + deviation * torch.tensor([1.9, -1.9, 2.1, -1.1])[:, None]
    values = UncertainRegression(Fixed(), 2, 0.0, points=4).evaluate([(torch.zeros(4, 1), y)])
    assert values["coverage"] == 75 and values["spread_inside"] == pytest.approx(2)
    means = torch.tensor([0.0, 4.0]).expand(4, 1, 2)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(means, NOISE)
    )
    assert values["nll"] == pytest.approx(-mixture.log_prob(y).mean().item(), abs=1e-5)


def test_one_sample_has_no_variance(launcher, assert_one_line):
    noise = ["hypernet=once", "hypernet.condition=noise", "hypernet.condition_size=4"]
    done = launcher.call(*CUBIC, *noise, "dataset.samples=1", f"runs={launcher.runs}")
    assert_one_line(done, "dataset.samples is 1")


def test_calibration_error_and_auroc():
    confidence, hit = torch.tensor([0.91, 0.91, 0.51, 0.51]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert calibration_error(confidence, hit) == pytest.approx((2 * 0.41 + 2 * 0.49) / 4)
    low, high = torch.rand(50), torch.rand(40) + 0.3
    low[:5], high[:5] = 0.5, 0.5  # equal ones count half
    pairs = (high[:, None] > low).float() + 0.5 * (high[:, None] == low)
    assert auroc(low, high) == pytest.approx(pairs.mean().item(), abs=1e-6)


class Sure(nn.Module):
    """The more two pixels differ, the surer it is of the brighter one."""

    def sampled(self, images, samples):
        return 9 * images[None]


def test_unknown_images_are_those_of_high_entropy():
    known, unknown = torch.eye(2), torch.full((3, 2), 0.1)
    batches = [(known, torch.tensor([0, 0]), True), (unknown, torch.tensor([0, 0, 0]), False)]
    values = UncertainClassification(Sure(), 2, 0.0, 2).evaluate(batches)
    assert values["auroc"] == 100 and values["error"] == 50
    assert values["calibration_error"] == pytest.approx(50, abs=0.1)


def small_images(low, high):
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 10
    images = draw.integers(low, high, size=(60, 4, 4, 1), dtype=np.uint8)
    images[range(60), labels // 3, labels % 3] = high  # which tells the class
    return ImageArrays(images, labels, images, labels, num_classes=10)


def test_unknown_images(launcher, monkeypatch):
    monkeypatch.setitem(IMAGE_SETS, "mnist", lambda root: small_images(0, 100))
    monkeypatch.setitem(IMAGE_SETS, "fashion_mnist", lambda root: small_images(100, 200))
    launcher.succeed(
        *("dataset=mnist_or_fashion", "dataset.validation_size=10", "dataset.batch_size=50", *CUBIC[1:]),
        *("hypernet=chunk_wise", "hypernet.chunk_size=40", "hypernet.condition=noise", "hypernet.condition_size=4"),
        *("dataset.posterior=0.1", f"runs={launcher.runs}"),
    )
    test = read_result(launcher.only_run())["test"]
    assert test["error"] < 50 and "error_mean_condition" in test and test["weight_spread"] > 0.01
