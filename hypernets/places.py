"""Where a tile is in its main network, in numbers: what a described hypernetwork reads in place of a learned row.

Shape legend
    R   tiles of a block
    D   numbers that describe a place
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernets.generation import Block

FREQUENCIES = 3.0 * 2.0 ** -torch.arange(
    8
)  # radians per unit; neighbours differ by the first, distant places by the last


@dataclass(frozen=True)
class Place:
    """Where a tensor is in its network. Tensors of one module share its depth and fans."""

    depth: int  # modules with parameters before it
    height: int  # modules with parameters after it
    fan_in: int
    fan_out: int
    kind: tuple[str, int, int]  # last part of its name, its dimensions, the most dimensions of a tensor of its module


def find_places(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """Return name -> place for all tensors, name -> shape, of a network, in its order.

    A module is what the names have in common before the last dot. Its fans are those of its tensor with the most
    dimensions, [fan out, ...]; the product of the other dimensions is the fan in.
    """
    modules: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        modules.setdefault(name.rpartition(".")[0], []).append(tuple(shape))
    depths = {module: depth for depth, module in enumerate(modules)}
    places = {}
    for name, shape in shapes.items():
        module, _, last = name.rpartition(".")
        largest = max(modules[module], key=len)
        places[name] = Place(
            depth=depths[module],
            height=len(modules) - 1 - depths[module],
            fan_in=math.prod(largest[1:]),
            fan_out=largest[0] if largest else 1,
            kind=(last, len(shape), len(largest)),
        )
    return places


def describe_tiles(block: Block, place: Place, kinds: list[tuple[str, int, int]]) -> Tensor:
    """Describe the tiles of a block of one tensor: [R, D], with mean square 1.

    A place's kind is one of `kinds`. Its depth, height, the logarithms of its fans, and the row and column of the tile
    are sines and cosines of eight frequencies, as in the positions of a transformer.
    """
    grid = torch.cartesian_prod(*map(torch.arange, (*block.grid, 1, 1))).view(block.tiles, -1)  # at least two columns
    numbers = [place.depth, place.height, math.log2(place.fan_in), math.log2(place.fan_out)]
    numbers = torch.cat([torch.tensor(numbers).expand(block.tiles, -1), grid[:, :2]], dim=1)  # [R, 6]
    angles = numbers.unsqueeze(-1) * FREQUENCIES  # [R, 6, 8]
    waves = math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    kind = torch.zeros(block.tiles, len(kinds))
    kind[:, kinds.index(place.kind)] = math.sqrt(len(kinds))
    return torch.cat([kind, waves], dim=1)


def description_size(kinds: list[tuple[str, int, int]]) -> int:
    """D, for so many kinds of tensors."""
    return len(kinds) + 6 * 2 * len(FREQUENCIES)
