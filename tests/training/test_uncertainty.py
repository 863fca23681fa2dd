"""Networks that say how sure they are: the posterior term, its controls, and runs of the cubic."""

import math

import pytest
import torch
from torch import nn

from models.sampled_networks import NoiseConditioned, build_sampled
from training.run import read_result, read_rows

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


@pytest.mark.parametrize("kind", ["none", "separate", "once"])
def test_samples_for_evaluation_are_always_the_same(kind):
    torch.manual_seed(0)
    hypernet = HYPERNET if kind == "once" else {"kind": kind, "members": 5}
    sampled = build_sampled(lambda: nn.Sequential(network(), nn.Dropout(0.5)), hypernet).eval()
    x, state = torch.randn(6, 2), torch.get_rng_state()
    outputs = sampled.sampled(x, samples=5)
    assert outputs.shape == (5, 6, 1) and outputs.std(dim=0).min() > 0
    assert torch.equal(outputs, sampled.sampled(x, samples=5))
    assert torch.equal(torch.get_rng_state(), state) and not any(module.training for module in sampled.modules())


CUBIC = [
    *("dataset=toy_cubic", "main_net=mlp", "main_net.hidden_units=[8]", "precision=float32", "schedule=constant"),
    *("schedule.rate=0.02", "steps=150", "validate_every=50", "logger=none", "device=cpu"),
]


@pytest.mark.parametrize(
    "hypernet",
    [
        ["hypernet=once", "hypernet.units=[8]", "hypernet.condition=noise", "hypernet.condition_size=4"],
        ["hypernet=separate", "+hypernet.members=3"],
        ["hypernet=none", "main_net.dropout=0.1"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_cubic(launcher, hypernet):
    launcher.succeed(*CUBIC, *hypernet, f"runs={launcher.runs}")
    rows = [row for row in read_rows(launcher.only_run()) if "validation/nll" in row]
    assert rows[-1]["validation/nll"] < rows[0]["validation/nll"]
    test = read_result(launcher.only_run())["test"]
    assert test["spread_outside"] > test["spread_inside"] > 0 and 0 < test["coverage"] <= 100
    assert test["nll"] >= math.log(3) and ("nll_mean_condition" in test) == (hypernet[0] == "hypernet=once")
