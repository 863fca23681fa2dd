"""Image classification: its loss, its evaluation, and runs of networks whose weights are generated."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torchvision.models import resnet18

from hypernets import HyperDNN, StaticHypernetwork, UserError, tileable_kernels
from models.wide_resnet import WideResNet
from training.run import read_result, read_rows
from training.tasks.image_classification import ImageClassification

SPLITS = ("train", "test")
SGD = {"kind": "sgd", "momentum": 0.9}


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def wide_resnet():
    torch.manual_seed(0)
    return WideResNet(depth=10)


def hyper_wide_resnet():
    torch.manual_seed(0)
    hypernetwork = partial(StaticHypernetwork, embedding_size=4, projection_size=4)
    return HyperDNN(WideResNet(depth=10), hypernetwork, tileable_kernels(3, (16, 16)))


@pytest.mark.parametrize("generated", [False, True])
def test_pictures_are_of_the_first_middle_and_last_kernel(generated):
    network = WideResNet(depth=28)  # 12 blocks of two kernels
    if generated:
        hypernetwork = partial(StaticHypernetwork, embedding_size=4, projection_size=4)
        network = HyperDNN(network, hypernetwork, tileable_kernels(3, (16, 16)))
    first_middle_last = ["blocks.0.first", "blocks.6.first", "blocks.11.second"]
    pictures = ImageClassification(network, kernel_decay=0.0).pictures()
    assert list(pictures) == [f"kernels/{name}_convolution" for name in first_middle_last]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make_network", [wide_resnet, hyper_wide_resnet])
def test_evaluation_changes_nothing(assert_same, make_network, training):
    task = ImageClassification(make_network(), 0.0).train(training)
    state = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    random_state, modes = torch.get_rng_state(), []
    for module in task.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda norm, *_: modes.append(norm.training))
    values = task.evaluate([images(0), images(1)])
    assert not any(modes) and len(modes) > 2
    assert all(module.training is training for module in task.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(dict(task.state_dict()), state)
    assert all(parameter.grad is None for parameter in task.parameters())
    inputs, labels = (torch.cat(pair) for pair in zip(images(0), images(1), strict=True))
    logits = task.eval().network(inputs)
    assert values["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert values["error"] == 100 * (logits.argmax(1) != labels).sum().item() / 8


@pytest.mark.parametrize("make_network", [wide_resnet, hyper_wide_resnet])
def test_penalty_is_weight_decay_of_all_kernels_and_of_nothing_else(make_network):
    losses = [ImageClassification(make_network(), decay)(images(), None)[0] for decay in (0.0, 0.1)]
    network = make_network()
    kernels = [parameter for parameter in network.parameters() if parameter.dim() == 4]
    if isinstance(network, HyperDNN):
        kernels += network.weights().values()
    assert len(kernels) == 7
    penalty = 0.05 * sum(kernel.square().sum() for kernel in kernels)
    torch.testing.assert_close(losses[1] - losses[0], penalty, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="kernel_decay is -1"):
        ImageClassification(make_network(), -1)


# Runs


@pytest.mark.parametrize("compiled", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_resnet18_with_generated_kernels_trains(launcher, compiled):
    batch = ["dataset.batch_size=64", "schedule=constant", "schedule.rate=0.0003"]  # nearly all images in each batch
    main_net = ["main_net=torchvision", "hypernet=static", "logger=none", "device=cpu", f"runs={launcher.runs}"]
    budget = ["steps=6", "log_every=1", "precision=bf16", f"compile={compiled}"]
    launcher.succeed(*main_net, f"dataset.path={launcher.images}", *batch, *budget)
    run = launcher.only_run()
    losses = [row["train/loss"] for row in read_rows(run)]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert 0 < read_result(run)["parameters"] < sum(parameter.numel() for parameter in resnet18().parameters()) / 5
    assert all(path.stat().st_size < 2_000_000 for path in (run / "pictures").iterdir())


@pytest.mark.compiler
def test_compiled_network_trains_as_it_does_uncompiled(launcher, tmp_path):
    arrays = {
        f"x_{split}": np.random.default_rng(0).integers(256, size=(20, 28, 28), dtype=np.uint8) for split in SPLITS
    }
    np.savez(tmp_path / "grey.npz", **arrays, **{f"y_{split}": np.arange(20) % 2 for split in SPLITS})
    network = ["main_net=mnist_convnet", "hypernet.filter_size=7", "hypernet.embedding_size=4", "precision=float32"]
    budget = ["dataset.batch_size=9", "steps=3", "validate_every=2", "log_every=1", "logger=none", "device=cpu"]
    for compiled in ("false", "true"):
        place = [f"dataset.path={tmp_path}/grey.npz", f"runs={launcher.runs}", f"run=compile-{compiled}"]
        counters.clear()
        launcher.succeed(*network, *budget, *place, f"compile={compiled}")
        assert (counters["stats"]["unique_graphs"] > 0) == (compiled == "true")
    for row, compiled in zip(
        *(read_rows(launcher.runs / f"compile-{each}") for each in ("false", "true")), strict=True
    ):
        assert compiled == pytest.approx(row, rel=1e-3)
