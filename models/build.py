"""The one place that turns a configuration into a main network and refuses combinations that make no sense."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from hypernets import LSTM, HyperLSTM, HyperRNN, LearnedKernels, StaticHypernetwork
from models.character_model import CharacterModel
from models.mnist_convnet import MNISTConvnet
from models.wide_resnet import WideResNet

# The hypernetworks that can generate or scale the weights of each main network.
IMAGE_CLASSIFIERS = {
    "wide_resnet": ("none", "static"),
    "mnist_convnet": ("none", "static"),
}
CHARACTER_MODELS = {
    "lstm": ("none", "hyperlstm"),
    "rnn": ("hyperrnn",),
}
HYPERNETWORKS_OF = IMAGE_CLASSIFIERS | CHARACTER_MODELS


def build_image_classifier(
    main_net: Mapping[str, Any], hypernet: Mapping[str, Any], num_classes: int, image_shape: tuple[int, int, int]
) -> nn.Module:
    """Build a convolutional main network with the kernel source that the hypernetwork's configuration asks for.

    Args:
        main_net: `name` and the sizes of the main network.
        hypernet: `name` and the sizes of the hypernetwork.
        num_classes: classes of the data set.
        image_shape: (channels, height, width) of its images.

    Raises:
        ValueError: an unknown name, a hypernetwork that does not fit the main network, or images that do not fit it.
    """
    sizes = {key: value for key, value in hypernet.items() if key != "name"}
    check_combination(main_net["name"], hypernet["name"])
    if hypernet["name"] == "none":
        kernel_source = LearnedKernels
    else:
        if len(sizes["basic_channels"]) != 2:
            raise ValueError(f"hypernet.basic_channels is {sizes['basic_channels']}; it must be [N_in, N_out].")
        sizes["basic_channels"] = tuple(sizes["basic_channels"])
        kernel_source = partial(StaticHypernetwork, **sizes)
    channels, height, width = image_shape
    if main_net["name"] == "mnist_convnet":
        if (height, width) != (28, 28):
            raise ValueError(
                f"The MNIST convnet takes images of 28x28 pixels, but this data set has {height}x{width}; "
                "choose main_net=wide_resnet or another data set."
            )
        return MNISTConvnet(kernel_source, num_classes, channels)
    return WideResNet(kernel_source, main_net["depth"], main_net["width"], num_classes, channels)


def build_character_model(main_net: Mapping[str, Any], hypernet: Mapping[str, Any], vocabulary: str) -> CharacterModel:
    """Build a character model with the recurrent layer that the two configurations describe.

    Args:
        main_net: `name`, and the settings of `CharacterModel` and of the recurrent layer's main network.
        hypernet: `name`, and the settings of the recurrent layer's hypernetwork.
        vocabulary: the characters of the text.

    Raises:
        ValueError: an unknown name, a hypernetwork that does not fit the main network, or a setting that makes no
            sense.
    """
    check_combination(main_net["name"], hypernet["name"])
    layer_type = {"none": LSTM, "hyperlstm": HyperLSTM, "hyperrnn": HyperRNN}[hypernet["name"]]
    dropout = {key: main_net[key] for key in ("input_dropout", "output_dropout")}
    sizes = {key: value for key, value in {**main_net, **hypernet}.items() if key not in ("name", "label", *dropout)}
    return CharacterModel(partial(layer_type, **sizes), vocabulary, **dropout)


def check_combination(main_net: str, hypernet: str) -> None:
    """Raise ValueError unless this hypernetwork can serve this main network."""
    if main_net not in HYPERNETWORKS_OF:
        raise ValueError(f"There is no main network {main_net!r}; choose one of {', '.join(HYPERNETWORKS_OF)}.")
    if hypernet not in HYPERNETWORKS_OF[main_net]:
        raise ValueError(
            f"The hypernetwork {hypernet!r} does not fit the main network {main_net!r}; "
            f"choose hypernet={' or hypernet='.join(HYPERNETWORKS_OF[main_net])}."
        )
