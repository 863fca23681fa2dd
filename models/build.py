"""The one place that turns a configuration into a main network and refuses combinations that make no sense."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from hypernets import LearnedKernels, StaticHypernetwork
from models.mnist_convnet import MNISTConvnet
from models.wide_resnet import WideResNet

# The hypernetworks that can generate or scale the weights of each main network.
HYPERNETWORKS_OF = {
    "wide_resnet": ("none", "static"),
    "mnist_convnet": ("none", "static"),
}


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


def check_combination(main_net: str, hypernet: str) -> None:
    """Raise ValueError unless this hypernetwork can serve this main network."""
    if main_net not in HYPERNETWORKS_OF:
        raise ValueError(f"There is no main network {main_net!r}; choose one of {', '.join(HYPERNETWORKS_OF)}.")
    if hypernet not in HYPERNETWORKS_OF[main_net]:
        raise ValueError(
            f"The hypernetwork {hypernet!r} does not fit the main network {main_net!r}; "
            f"choose hypernet={' or hypernet='.join(HYPERNETWORKS_OF[main_net])}."
        )
