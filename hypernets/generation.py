"""Generation strategies: how the weights of a main network are cut into the pieces that a hypernetwork generates.

A strategy cuts the tensors of a main network into blocks, and each block into tiles of one shape. A piece, which has an
embedding of its own, becomes one tile, or one tile per head where there are several heads. Tiles may reach over the end
of a block; what does is generated and discarded.

Shape legend
    *   leading dimensions of the condition
    N   pieces
    R   tiles of a block
    s   weights of a tile
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import mul
from typing import Protocol

from torch import Tensor

from hypernets.errors import UserError, require_whole

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Block:
    """Tensors that one grid of tiles covers: a single tensor, or several that are flattened and joined."""

    tensors: dict[str, tuple[int, ...]]  # name -> shape
    shape: tuple[int, ...]  # of the block; that of its tensor, or [the sum of all weights]
    tile: tuple[int, ...]  # its shape, with as many dimensions; tiles of one shape come from one head
    heads: int = 1  # that each make a tile from every piece

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles along each dimension."""
        return tuple(math.ceil(size / tile) for size, tile in zip(self.shape, self.tile, strict=True))

    @property
    def tiles(self) -> int:
        return math.prod(self.grid)

    @property
    def pieces(self) -> int:
        return self.tiles // self.heads

    @property
    def discarded(self) -> int:
        """Weights that are generated beyond the end of the block."""
        return self.tiles * math.prod(self.tile) - math.prod(self.shape)

    def assemble(self, tiles: Tensor) -> dict[str, Tensor]:
        """Put tiles [*, R, s] in their places, row by row; return name -> tensor [*, its shape]."""
        leading, dimensions = tiles.shape[:-2], len(self.shape)
        first = len(leading)
        tiles = tiles.reshape((*leading, *self.grid, *self.tile))
        # [*, R_1, R_2, ..., s_1, s_2, ...] -> [*, R_1, s_1, R_2, s_2, ...] -> [*, R_1 s_1, R_2 s_2, ...]
        order = [first + axis + half for axis in range(dimensions) for half in (0, dimensions)]
        tiles = tiles.permute([*range(first), *order])
        block = tiles.reshape((*leading, *map(mul, self.grid, self.tile)))
        for axis, size in enumerate(self.shape):
            block = block.narrow(first + axis, 0, size)
        if len(self.tensors) == 1:
            ((name, shape),) = self.tensors.items()
            return {name: block.reshape((*leading, *shape))}
        parts = block.split([math.prod(shape) for shape in self.tensors.values()], dim=-1)
        return {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for part, (name, shape) in zip(parts, self.tensors.items(), strict=True)
        }


class Generation(Protocol):
    """A generation strategy; `GenerateOnce`, `GenerateMultiple`, `GenerateChunkWise` and `GenerateComponentWise`."""

    def lay_out(self, shapes: Shapes) -> list[Block]:
        """Cut tensors, name -> shape, into blocks; raise UserError where that is impossible."""


def _joined(shapes: Shapes, size: int, heads: int = 1) -> Block:
    """All tensors in one block, with tiles of `size` weights."""
    return Block(dict(shapes), (_weights(shapes),), (size,), heads)


def _weights(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


@dataclass(frozen=True)
class GenerateOnce:
    """All weights at once: one piece, one head (Chauhan et al. 2023, "generate once")."""

    def lay_out(self, shapes: Shapes) -> list[Block]:
        return [_joined(shapes, _weights(shapes))]


@dataclass(frozen=True)
class GenerateMultiple:
    """All weights by several heads: one piece, each head an equal part of the weights ("generate multiple").

    Each head reads its own part of the features, so K heads have a K-th of the parameters of one. Heads that read the
    same features would only be one bigger head.
    """

    heads: int

    def __post_init__(self) -> None:
        require_whole("heads of GenerateMultiple", self.heads)

    def lay_out(self, shapes: Shapes) -> list[Block]:
        weights = _weights(shapes)
        block = _joined(shapes, math.ceil(weights / self.heads), self.heads)
        if block.tiles != self.heads:
            raise UserError(f"GenerateMultiple has {self.heads} heads, too many for {weights:,} weights; take fewer.")
        return [block]


@dataclass(frozen=True)
class GenerateChunkWise:
    """Chunks of equally many weights, by one head that all chunks share ("generate chunk-wise").

    The tensors are flattened and joined, and a chunk may begin in one and end in the next. The size need not divide
    the number of weights.
    """

    size: int

    def __post_init__(self) -> None:
        require_whole("size of GenerateChunkWise", self.size)

    def lay_out(self, shapes: Shapes) -> list[Block]:
        weights = _weights(shapes)
        if self.size > weights:
            raise UserError(
                f"A chunk of {self.size:,} weights is larger than all {weights:,} weights to generate; take smaller "
                "chunks, or GenerateOnce()."
            )
        return [_joined(shapes, self.size)]


@dataclass(frozen=True)
class GenerateComponentWise:
    """Each component by itself, with one head for components of one shape ("generate component-wise").

    Args:
        component: "tensors" for whole tensors; "channels" for output channels (a tensor of one dimension, such as a
            bias, stays whole); or (N_in, N_out) for tiles of that many input and output channels (Eq. 3 of the paper;
            of N_out entries in a tensor of one dimension). Tiles need not divide the channels.
    """

    component: str | tuple[int, int]

    def __post_init__(self) -> None:
        if isinstance(self.component, (tuple, list)) and len(self.component) == 2:
            for name, size in zip(("N_in", "N_out"), self.component, strict=True):
                require_whole(f"{name} of GenerateComponentWise", size)
            object.__setattr__(self, "component", tuple(self.component))  # a list, as configurations have it
        elif self.component not in ("tensors", "channels"):
            raise UserError(
                f"The component of GenerateComponentWise is {self.component!r}; it must be 'tensors', 'channels' or "
                "(N_in, N_out), such as (16, 16)."
            )

    def lay_out(self, shapes: Shapes) -> list[Block]:
        return [Block({name: tuple(shape)}, tuple(shape), self._tile(shape)) for name, shape in shapes.items()]

    def _tile(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.component == "tensors" or not shape:
            return tuple(shape)
        if self.component == "channels":
            return (1, *shape[1:]) if len(shape) > 1 else tuple(shape)
        n_in, n_out = self.component
        return (n_out, n_in, *shape[2:])[: len(shape)]
