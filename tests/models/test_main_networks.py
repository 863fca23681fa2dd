"""The convolutional main networks: the paper's counts, and that they do not know where their kernels come from."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from hypernets import LearnedKernels, StaticHypernetwork
from models import MNISTConvnet, WideResNet, build_image_classifier
from scripts.count_parameters import MNIST_HYPERNETWORK, count, rows

STATIC = {"name": "static", "basic_channels": [16, 16], "embedding_size": 64, "projection_size": 64}
WRN = {"name": "wide_resnet", "label": "wrn", "depth": 10, "width": 1, "kernel_decay": 5e-4}


@pytest.mark.parametrize(
    ("source", "width", "parameters"),
    [
        (LearnedKernels, 1, 562_762),
        (StaticHypernetwork, 1, 96_602),
        (LearnedKernels, 2, 2_235_530),
        (StaticHypernetwork, 2, 147_610),
    ],
)
def test_parameters_of_table_2(source, width, parameters):
    assert count(WideResNet(source, width=width)) == parameters


def test_parameters_of_table_7():
    network = MNISTConvnet(MNIST_HYPERNETWORK)
    assert count(network) == 12_910
    assert count(network.kernel_source) == 4_244
    assert count(network.kernel_source) - network.kernel_source.embeddings.numel() == 4_240


def test_generator_and_embeddings_of_section_4_2():
    source = WideResNet(StaticHypernetwork, width=2).kernel_source
    assert len(source.embeddings) == 966
    assert len(WideResNet(StaticHypernetwork, width=1).kernel_source.embeddings) == 242
    assert count(source) - source.embeddings.numel() == 75_920


def test_the_printed_counts_are_those_of_the_script():
    differing = {"layer_norm_hyperlstm_1000_large_embedding", "layer_norm_lstm_1800", "layer_norm_hyperlstm_1800"}
    for _, name, counted, printed in rows():
        if printed.endswith(" M"):
            decimals = len(printed.removesuffix(" M").split(".")[1])
            assert (f"{counted / 1e6:.{decimals}f} M" != printed) == (name in differing), name
        elif printed != "-":
            assert f"{counted:,}" == printed, name


def test_stem_and_classifier_are_never_generated():
    network = WideResNet(StaticHypernetwork, depth=10)
    own = {name for name, _ in network.named_parameters() if not name.startswith("kernel_source")}
    assert {"stem.weight", "stem.bias", "classifier.weight", "classifier.bias"} <= own
    assert not any(name.endswith("kernel") for name in own)
    assert len(network.kernel_source()) == 2 * 3  # two in each of three blocks


def reference_wide_resnet(network: WideResNet, kernels: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Table 1 written out: pre-activation blocks, subsampled and zero-padded shortcuts."""

    def norm(layer, x):
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)

    x = F.relu(norm(network.stem_norm, F.conv2d(x, network.stem.weight, network.stem.bias, padding=1)))
    kernels = iter(kernels)
    for index, block in enumerate(network.blocks):
        stride = 2 if index in (1, 2) else 1  # depth 10: one block in each group
        y = F.conv2d(F.relu(norm(block.first_norm, x)), next(kernels), block.first_bias, stride=stride, padding=1)
        y = F.conv2d(F.relu(norm(block.second_norm, y)), next(kernels), block.second_bias, padding=1)
        shortcut = torch.zeros_like(y)
        shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
        x = shortcut + y
    x = F.relu(norm(network.final_norm, x)).mean(dim=(2, 3))
    return F.linear(x, network.classifier.weight, network.classifier.bias)


def test_wide_resnet_computes_what_table_1_says():
    torch.manual_seed(0)
    network = WideResNet(StaticHypernetwork, depth=10, width=2)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(4, 3, 32, 32)
    kernels = network.kernel_source()
    torch.testing.assert_close(network(images), reference_wide_resnet(network, kernels, images), rtol=1e-4, atol=1e-4)


def test_plain_and_hyper_networks_with_the_same_kernels_agree():
    torch.manual_seed(0)
    hyper, plain = WideResNet(StaticHypernetwork, depth=10), WideResNet(LearnedKernels, depth=10)
    shared = {name: value for name, value in hyper.state_dict().items() if not name.startswith("kernel_source")}
    plain.load_state_dict(shared, strict=False)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain(images, hyper.kernel_source()), hyper(images))


def test_evaluation_uses_running_statistics():
    network = WideResNet(StaticHypernetwork, depth=10).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:1], network(images[:1]), rtol=1e-4, atol=1e-4)


def test_mnist_convnet_shapes():
    assert MNISTConvnet(MNIST_HYPERNETWORK)(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("main_net", "hypernet", "shape", "words"),
    [
        (WRN | {"name": "vgg"}, STATIC, (3, 32, 32), ["'vgg'", "wide_resnet"]),
        (WRN, STATIC | {"name": "hyperlstm"}, (3, 32, 32), ["'hyperlstm'", "'wide_resnet'", "hypernet=static"]),
        ({"name": "mnist_convnet"}, STATIC, (3, 32, 32), ["28x28", "32x32"]),
        (WRN | {"depth": 41}, STATIC, (3, 32, 32), ["41", "6 N + 4"]),
        (WRN | {"width": 0}, STATIC, (3, 32, 32), ["width", "0"]),
        (WRN, STATIC | {"basic_channels": [24, 16]}, (3, 32, 32), ["24", "do not divide"]),
    ],
)
def test_what_does_not_fit_is_refused(main_net, hypernet, shape, words):
    with pytest.raises(ValueError) as raised:
        build_image_classifier(main_net, hypernet, 10, shape)
    assert all(word in str(raised.value) for word in words)


def test_building_from_settings():
    network = build_image_classifier(WRN | {"depth": 40, "width": 2}, STATIC, 10, (3, 32, 32))
    assert count(network) == 147_610
    assert count(build_image_classifier(WRN | {"depth": 40}, {"name": "none"}, 10, (3, 32, 32))) == 562_762
    mnist = build_image_classifier({"name": "mnist_convnet"}, {"name": "none"}, 10, (1, 28, 28))
    assert count(mnist) == count(MNISTConvnet(partial(LearnedKernels)))
