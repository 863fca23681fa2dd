"""What the benchmark counts rather than measures."""

import torch

from scripts.benchmarks.images import operations


def test_operations_of_a_training_step():
    def convolution(c_in, c_out, size):
        return 2 * 9 * c_in * c_out * size**2

    stem, classifier = convolution(3, 16, 32), 2 * 64 * 10
    forward = stem + 12 * convolution(16, 16, 32) + classifier
    forward += convolution(16, 32, 16) + 11 * convolution(32, 32, 16)
    forward += convolution(32, 64, 8) + 11 * convolution(64, 64, 8)
    counted = operations(1, torch.device("cpu"))
    assert counted["plain"] == 3 * forward - stem  # no gradient with respect to the images
    assert 1 < counted["hyper"] / counted["plain"] < 1.01
