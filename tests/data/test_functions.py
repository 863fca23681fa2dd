"""Data sets of functions: what they say they are."""

import pytest
import torch

from data.functions import toy_cubic


def test_the_cubic_has_noise_of_variance_nine_and_a_seed_of_its_own():
    x, y = toy_cubic(20_000, data_seed=0, device="cpu").train.batch(0)
    assert x.abs().max() <= 4 and x.std().item() == pytest.approx(8 / 12**0.5, rel=0.02)
    assert (y - x**3).std().item() == pytest.approx(3, rel=0.03)
    assert torch.equal(x[:20], toy_cubic(20_000, data_seed=0, device="cpu").train.batch(5)[0][:20])
    assert not torch.equal(x, toy_cubic(20_000, data_seed=1, device="cpu").train.batch(0)[0])
