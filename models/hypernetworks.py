"""The hypernetworks that generate the weights of a feed-forward main network, by the `kind` of their configuration."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from hypernets import HyperDNN, StaticHypernetwork, UserError, tileable_kernels
from hypernets.errors import call_with_settings
from models.coordinate_hypernetwork import CoordinateHypernetwork
from models.fully_connected import FullyConnected


def build_static(
    main_network: nn.Module, filter_size: int, basic_channels: list[int], embedding_size: int, projection_size: int
) -> HyperDNN:
    """Generate all kernels with filters of one size by the paper's two-layer projection (section 3.1)."""
    if not isinstance(basic_channels, list) or len(basic_channels) != 2:
        raise UserError(f"hypernet.basic_channels is {basic_channels!r}; it must be [N_in, N_out], such as [16,16].")
    channels = tuple(basic_channels)
    hypernetwork = partial(StaticHypernetwork, embedding_size=embedding_size, projection_size=projection_size)
    hypernetwork = partial(hypernetwork, basic_channels=channels)
    return HyperDNN(main_network, hypernetwork, tileable_kernels(filter_size, channels))


def build_coordinates(main_network: nn.Module, hidden_sizes: list[int]) -> HyperDNN:
    """Generate the weights of the hidden layer of a fully connected network from their coordinates (A.1)."""
    if not isinstance(main_network, FullyConnected):
        raise UserError("hypernet=coordinates generates the weights of main_net=fully_connected; choose that one.")
    hypernetwork = partial(CoordinateHypernetwork, hidden_sizes=hidden_sizes)
    return HyperDNN(main_network, hypernetwork, lambda name, parameter: name == "hidden_weight")


HYPERNETWORKS = {
    "none": lambda main_network: main_network,  # its weights are learned
    "static": build_static,
    "coordinates": build_coordinates,
}


def generate_weights(main_network: nn.Module, hypernet: Mapping[str, Any]) -> nn.Module:
    """Let the hypernetwork of the configuration group `hypernet` generate the weights of a main network."""
    kind, choices = hypernet["kind"], " or hypernet=".join(HYPERNETWORKS)
    if kind not in HYPERNETWORKS:
        raise UserError(f"The hypernetwork {kind!r} does not fit this main network; choose hypernet={choices}.")
    settings = {key: value for key, value in hypernet.items() if key not in ("kind", "name")}
    return call_with_settings(HYPERNETWORKS[kind], "hypernet", settings, main_network)
