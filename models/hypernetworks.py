"""The hypernetworks that generate the weights of a feed-forward main network, by the `kind` of their configuration."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hypernets import (
    AttentionBody,
    CNNBody,
    GenerateChunkWise,
    GenerateComponentWise,
    GenerateMultiple,
    GenerateOnce,
    HyperDNN,
    Hypernetwork,
    MLPBody,
    RNNBody,
    StaticHypernetwork,
    UserError,
    tileable_kernels,
)
from hypernets.errors import call_with_settings, require_whole, without
from hypernets.generation import Generation
from models.coordinate_hypernetwork import CoordinateHypernetwork
from models.fully_connected import FullyConnected


def build_static(
    main_network: nn.Module, filter_size: int, basic_channels: list[int], embedding_size: int, projection_size: int
) -> HyperDNN:
    """Generate all kernels with filters of one size by the paper's two-layer projection (section 3.1)."""
    hypernetwork = partial(
        StaticHypernetwork,
        embedding_size=embedding_size,
        projection_size=projection_size,
        basic_channels=basic_channels,
    )
    choose = tileable_kernels(filter_size, basic_channels)
    if not any(choose(name, parameter) for name, parameter in main_network.named_parameters()):
        raise UserError(
            f"hypernet=static has nothing to generate: the main network has no {filter_size}x{filter_size} kernels "
            f"with multiples of {basic_channels} channels; set hypernet.filter_size and hypernet.basic_channels, or "
            "choose another hypernet, such as none or chunk_wise."
        )
    return HyperDNN(main_network, hypernetwork, choose)


def build_coordinates(main_network: nn.Module, hidden_sizes: list[int]) -> HyperDNN:
    """Generate the weights of the hidden layer of a fully connected network from their coordinates (A.1)."""
    if not isinstance(main_network, FullyConnected):
        raise UserError("hypernet=coordinates generates the weights of main_net=fully_connected; choose that one.")
    hypernetwork = partial(CoordinateHypernetwork, hidden_sizes=hidden_sizes)
    return HyperDNN(main_network, hypernetwork, lambda name, parameter: name == "hidden_weight")


class OwnPartBody:
    """A body whose condition begins with a part for each piece; the rest of it is for all of them.

    As in the continual learning of von Oswald et al. (2020), where each task has its own embeddings of the chunks.

    Args:
        body: of the piece's own part, the rest of the condition and the piece's embedding.
        pieces, size: how many parts there are, and the size of each.
    """

    def __init__(self, body: Callable[[int], nn.Module], pieces: int, size: int) -> None:
        self.body, self.pieces, self.size = body, pieces, size

    def __call__(self, input_size: int) -> nn.Module:
        own = self.body(input_size - (self.pieces - 1) * self.size)
        return _OwnPart(own, self.pieces, self.size)

    def __repr__(self) -> str:
        return f"{self.body!r}, {self.size} entries of the condition for each piece"


class _OwnPart(nn.Module):
    def __init__(self, body: nn.Module, pieces: int, size: int) -> None:
        super().__init__()
        self.body, self.pieces, self.size = body, pieces, size

    def forward(self, inputs: Tensor) -> Tensor:
        parts, rest = inputs.tensor_split([self.pieces * self.size], dim=-1)  # [*, N, N size], [*, N, the others]
        own = parts.unflatten(-1, (self.pieces, self.size)).diagonal(dim1=-3, dim2=-2).transpose(-2, -1)
        return self.body(torch.cat([own, rest], dim=-1))


def build_generated(
    main_network: nn.Module,
    generation: Generation,
    described: bool,
    body: str,
    units: list[int],
    embedding_size: int,
    condition_size: int,
    conditional_embedding_size: int = 0,
    condition_is_set: bool = False,
) -> HyperDNN:
    """Generate all parameters by one of the strategies and one of the bodies."""
    require_whole("hypernet.conditional_embedding_size", conditional_embedding_size, least=0)
    if conditional_embedding_size and (condition_is_set or described):
        raise UserError(
            f"hypernet.conditional_embedding_size is {conditional_embedding_size}, but the condition is a set or the "
            "hypernetwork is a described one; leave it out."
        )
    if body not in BODIES:
        raise UserError(f"hypernet.body is {body!r}; it must be one of {', '.join(BODIES)}.")
    if not isinstance(units, list) or (body in ("rnn", "attention") and len(units) != 1):
        raise UserError(
            f"hypernet.units is {units!r}; it must be a list of sizes, such as [100,100], of only one for a body that "
            "is rnn or attention."
        )
    make_body = BODIES[body](*units)
    if conditional_embedding_size:
        shapes = {name: tuple(parameter.shape) for name, parameter in main_network.named_parameters()}
        pieces = sum(block.pieces for block in generation.lay_out(shapes))
        make_body = OwnPartBody(make_body, pieces, conditional_embedding_size)
        condition_size += pieces * conditional_embedding_size
    hypernetwork = partial(
        Hypernetwork,
        generation=generation,
        body=make_body,
        embedding_size=embedding_size,
        condition_size=condition_size,
        condition_is_set=condition_is_set,
        described=described,
    )
    return HyperDNN(main_network, hypernetwork)


BODIES = {"mlp": MLPBody, "cnn": CNNBody, "rnn": RNNBody, "attention": AttentionBody}
STRATEGIES = {
    "once": GenerateOnce,
    "multiple": GenerateMultiple,
    "chunk_wise": lambda chunk_size: GenerateChunkWise(chunk_size),
    "component_wise": GenerateComponentWise,
    "described": GenerateComponentWise,
}
# Settings of all of them. `conditional_embedding_size`: of embeddings of the pieces that each task has for itself, as
# part of its condition; 0 if not given.
OF_STRATEGIES = (
    "body",
    "units",
    "embedding_size",
    "condition_size",
    "conditional_embedding_size",
    "condition_is_set",
)
HYPERNETWORKS = {
    "none": lambda main_network: main_network,  # its weights are learned
    "static": build_static,
    "coordinates": build_coordinates,
}


def generate_weights(main_network: nn.Module, hypernet: Mapping[str, Any]) -> nn.Module:
    """Let the hypernetwork of the configuration group `hypernet` generate the weights of a main network."""
    kind, choices = hypernet["kind"], " or hypernet=".join((*HYPERNETWORKS, *STRATEGIES))
    settings = without(hypernet, "kind", "name", "condition")
    if hypernet.get("condition", "none") == "none" and settings.get("condition_size"):
        raise UserError(
            f"hypernet.condition_size is {settings['condition_size']}, but hypernet.condition is none; set it to 0."
        )
    if settings.get("conditional_embedding_size") and hypernet.get("condition") != "task":
        raise UserError(
            f"hypernet.conditional_embedding_size is {settings['conditional_embedding_size']}, but only a task has "
            "embeddings of its own for the pieces; set hypernet.condition=task, or leave it out."
        )
    if kind in HYPERNETWORKS:
        return call_with_settings(HYPERNETWORKS[kind], "hypernet", settings, main_network)
    if kind not in STRATEGIES:
        raise UserError(f"The hypernetwork {kind!r} does not fit this main network; choose hypernet={choices}.")
    shared = {key: settings.pop(key) for key in OF_STRATEGIES if key in settings}
    generation = call_with_settings(STRATEGIES[kind], "hypernet", settings)
    return call_with_settings(build_generated, "hypernet", shared, main_network, generation, kind == "described")


def condition_size_of(hypernet: Mapping[str, Any], condition: str) -> int:
    """The size of the condition, which must be of the kind that a task gives."""
    if hypernet["kind"] not in ("none", *STRATEGIES):
        raise UserError(
            f"hypernet={hypernet['kind']} takes no condition, but here the weights are generated from one of the kind "
            f"{condition}; choose hypernet={' or hypernet='.join(STRATEGIES)}, with hypernet.condition={condition} and "
            "hypernet.condition_size."
        )
    given = hypernet.get("condition", "none")
    if given != condition:
        plus = "" if "condition" in hypernet else "+"  # as Hydra wants it where the configuration lacks the key
        raise UserError(
            f"hypernet.condition is {given!r}, but here the condition is of the kind {condition}; set "
            f"{plus}hypernet.condition={condition} and {plus}hypernet.condition_size."
        )
    require_whole("hypernet.condition_size", hypernet.get("condition_size"))
    return hypernet["condition_size"]


def require_no_running_statistics(main_network: nn.Module, condition: str) -> None:
    """Raise UserError for batch norm's running statistics: one set of them cannot serve networks of several weights."""
    for name, module in main_network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise UserError(
                f"The main network's {name} is batch norm, whose running statistics would be shared by the networks of "
                f"all conditions (hypernet.condition={condition}); choose main_net=mlp or hypernet=separate."
            )


def require_no_condition(hypernet: Mapping[str, Any]) -> None:
    """Raise UserError where a condition is asked for in a task that gives none."""
    if (given := hypernet.get("condition", "none")) != "none":
        raise UserError(
            f"hypernet.condition is {given!r}, but this task gives no condition; set hypernet.condition=none."
        )
