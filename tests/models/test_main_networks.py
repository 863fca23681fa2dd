"""The convolutional main networks, plain and with generated kernels: their parts, and what does not fit."""

import pytest
import torch
import torch.nn.functional as F

from hypernets import UserError
from models import IMAGE_CLASSIFIERS
from models.hypernetworks import generate_weights
from models.wide_resnet import WideResNet
from training.task import build_within_memory

STATIC = {"kind": "static", "filter_size": 3, "basic_channels": [16, 16], "embedding_size": 64, "projection_size": 64}
OF_MNIST = STATIC | {"filter_size": 7, "embedding_size": 4, "projection_size": 4}
RESNET18 = {"model": "resnet18", "small_images": False}


def build(kind, settings, shape=(3, 32, 32), hypernet=None):
    return generate_weights(IMAGE_CLASSIFIERS[kind](shape, 10, **settings), hypernet or {"kind": "none"})


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_generators_and_embeddings():
    """Section 4.2, and Table 7, which counts the generator without its one embedding."""
    for settings, shape, static, embeddings, generator in (
        (("wide_resnet", {"depth": 40, "width": 1}), (3, 32, 32), STATIC, 242, 75_920),
        (("wide_resnet", {"depth": 40, "width": 2}), (3, 32, 32), STATIC, 966, 75_920),
        (("mnist_convnet", {}), (1, 28, 28), OF_MNIST, 1, 4_240),
    ):
        hypernetwork = build(*settings, shape, static).hypernetwork
        assert len(hypernetwork.embeddings) == embeddings
        assert count(hypernetwork) - hypernetwork.embeddings.numel() == generator


def test_only_the_kernels_of_the_blocks_are_generated():
    network = build("wide_resnet", {"depth": 10, "width": 1}, hypernet=STATIC)
    generated = {f"blocks.{index}.{part}_convolution.weight" for index in range(3) for part in ("first", "second")}
    assert set(network.weights()) == generated


def table_1(network, images):
    """Table 1 written out: pre-activation blocks, subsampled and zero-padded shortcuts."""

    def norm(layer, x):
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)

    x = F.relu(norm(network.stem_norm, F.conv2d(images, network.stem.weight, network.stem.bias, padding=1)))
    for index, block in enumerate(network.blocks):
        stride = 2 if index in (1, 2) else 1  # depth 10: one block in each group
        first, second = block.first_convolution, block.second_convolution
        y = F.conv2d(F.relu(norm(block.first_norm, x)), first.weight, first.bias, stride=stride, padding=1)
        y = F.conv2d(F.relu(norm(block.second_norm, y)), second.weight, second.bias, padding=1)
        shortcut = torch.zeros_like(y)
        shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
        x = shortcut + y
    x = F.relu(norm(network.final_norm, x)).mean(dim=(2, 3))
    return F.linear(x, network.classifier.weight, network.classifier.bias)


def test_wide_resnet_computes_what_table_1_says():
    torch.manual_seed(0)
    network = WideResNet(depth=10, width=2)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(network(images), table_1(network, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_of_torchvisions_resnets_keeps_small_images(channels):
    network = build("torchvision", RESNET18 | {"small_images": True}, (channels, 32, 32))
    sizes = []
    network.layer1.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape)))
    assert network(torch.randn(2, channels, 32, 32)).shape == (2, 10)
    assert sizes == [(2, 64, 32, 32)]


def test_a_network_of_torchvision_that_is_no_resnet():
    settings = {"model": "mobilenet_v3_small", "small_images": False}
    assert build("torchvision", settings)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_network_that_reads_a_tensor_while_it_is_built_is_built_all_the_same():
    settings = {"model": "regnet_y_400mf", "small_images": False}
    network = build_within_memory(lambda: build("torchvision", settings))
    assert network.training and network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("kind", "settings", "shape", "static", "word"),
    [
        ("wide_resnet", {"depth": 41, "width": 1}, (3, 32, 32), None, "6 N"),
        ("wide_resnet", {"depth": 10, "width": 1}, (3, 32, 32), OF_MNIST, "nothing to generate.* no 7x7 kernels"),
        ("wide_resnet", {"depth": 10, "width": 1}, (3, 32, 32), STATIC | {"basic_channels": 16}, "basic_channels"),
        ("mnist_convnet", {}, (3, 32, 32), None, "28x28"),
        ("torchvision", {"model": "resnet19", "small_images": True}, (3, 32, 32), None, "resnet18"),
        ("torchvision", {"model": "squeezenet1_0", "small_images": True}, (3, 32, 32), None, "small_images=false"),
        ("torchvision", RESNET18, (1, 28, 28), None, "3 channels"),
        ("torchvision", {"model": "vit_b_16", "small_images": False}, (3, 32, 32), None, "cannot read images of 32x32"),
        ("torchvision", {"model": "alexnet", "small_images": False}, (3, 32, 32), None, "cannot read images of 32x32"),
        ("torchvision", RESNET18 | {"small_images": "no"}, (3, 32, 32), None, "true or false"),
    ],
)
def test_what_does_not_fit_is_refused(kind, settings, shape, static, word):
    with pytest.raises(UserError, match=word):
        build(kind, settings, shape, static)


def test_a_recurrent_hypernetwork_is_refused():
    with pytest.raises(UserError, match="'hyperlstm' does not fit .*hypernet=static"):
        generate_weights(WideResNet(depth=10), {"kind": "hyperlstm", "hyper_size": 128})
