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

# Radians per unit. By the golden ratio, so that no two numbers have all their waves in common.
SHARP = [3.0 * 0.618**k for k in range(4)]  # neighbours differ
SMOOTH = [3.0 * 0.618**k for k in range(8)]  # neighbours are also alike


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
    """Describe the tiles of a block of one tensor, whose kind is one of `kinds`: [R, D], with mean square 1.

    Numbers are described by sines and cosines, as positions are in a transformer: depth, height, the logarithms of the
    fans, and the row and the column of the tile. The latter two are multiplied, so that tiles have little in common,
    and count twice, so that tiles of one tensor do not start alike.
    """
    kind = torch.zeros(len(kinds))
    kind[kinds.index(place.kind)] = math.sqrt(len(kinds))
    numbers = torch.tensor([place.depth, place.height, math.log2(place.fan_in), math.log2(place.fan_out)])
    common = torch.cat([kind, _waves(numbers, SMOOTH).flatten()])
    rows, columns = torch.cartesian_prod(*map(torch.arange, (*block.grid, 1, 1))).t()[:2]
    position = (_waves(rows, SHARP).unsqueeze(2) * _waves(columns, SHARP).unsqueeze(1)).flatten(1)  # [R, 64]
    described = torch.cat([common.expand(block.tiles, -1), 2 * position], dim=1)
    return described / described.square().mean().sqrt()


def description_size(kinds: list[tuple[str, int, int]]) -> int:
    """D, for so many kinds of tensors."""
    return len(kinds) + 4 * 2 * len(SMOOTH) + (2 * len(SHARP)) ** 2


def _waves(numbers: Tensor, frequencies: list[float]) -> Tensor:
    """Map numbers [*] to their sines and cosines [*, 2 * frequencies], with mean square 1."""
    angles = numbers.unsqueeze(-1) * torch.tensor(frequencies)
    return math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=-1)
