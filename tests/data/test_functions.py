"""Data sets of functions: what they say they are."""

import pytest
import torch

from data.functions import sinusoids, toy_cubic


def test_the_cubic_has_noise_of_variance_nine_and_a_seed_of_its_own():
    x, y = toy_cubic(20_000, data_seed=0, device="cpu").train.batch(0)
    assert x.abs().max() <= 4 and x.std().item() == pytest.approx(8 / 12**0.5, rel=0.02)
    assert (y - x**3).std().item() == pytest.approx(3, rel=0.03)
    assert torch.equal(x[:20], toy_cubic(20_000, data_seed=0, device="cpu").train.batch(5)[0][:20])
    assert not torch.equal(x, toy_cubic(20_000, data_seed=1, device="cpu").train.batch(0)[0])


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_sinusoids_of_validation_are_not_those_of_training(seed):
    splits = sinusoids(10, batch_size=100, seed=seed, device="cpu")
    trained = torch.cat([splits.train.batch(step).parameters for step in range(12)])
    for split in (splits.validation, splits.test):
        held_out = torch.cat([batch.parameters for batch in split.evaluation_batches()])
        assert not (held_out[:, None] == trained).all(dim=2).any()
