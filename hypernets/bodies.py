"""Bodies of hypernetworks: from the condition and the embeddings of the pieces to the features that the heads read.

A body is called with the number of entries of its input and returns a module that maps [*, N, input size] to
[*, N, features]. The input of a piece is [c; e_n], its embedding appended to the condition. Any module with these
shapes, or function that makes one, is a body too.

A condition that is a set of tokens reaches a body apart from the pieces. The body is then called with the sizes of a
piece and of a token, and its module with the embeddings [*, N, E] and the tokens [*, M, C]. `AttentionBody` can do so.

Shape legend
    *   leading dimensions of the condition
    N   pieces
    I   input size: C + E
    C   condition size, or the size of a token
    E   embedding size
    M   tokens of a condition that is a set
    F   features
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets.errors import UserError, require_whole


class MLPBody:
    """Linear layers, each with a ReLU: the pieces do not see each other.

    Without any units the features are the input itself, so that the whole hypernetwork is linear.

    Args:
        units: of each layer.
    """

    def __init__(self, *units: int) -> None:
        for size in units:
            require_whole("units of MLPBody", size)
        self.units = units

    def __call__(self, input_size: int) -> nn.Sequential:
        layers, sizes = [], [input_size, *self.units]
        for before, after in zip(sizes, self.units, strict=False):
            layers += [_start_as_he(nn.Linear(before, after)), nn.ReLU()]
        return nn.Sequential(*layers)

    def __repr__(self) -> str:
        return f"MLPBody({', '.join(map(str, self.units))})"


class CNNBody:
    """Convolutions along the pieces, each with a ReLU: a piece sees its neighbours.

    Args:
        channels: of each convolution.
        kernel_size: pieces that a convolution covers, an odd number.
    """

    def __init__(self, *channels: int, kernel_size: int = 3) -> None:
        if not channels:
            raise UserError("CNNBody has no channels; give those of each convolution, such as CNNBody(64, 64).")
        for size in channels:
            require_whole("channels of CNNBody", size)
        require_whole("kernel_size of CNNBody", kernel_size)
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size of CNNBody is {kernel_size}; it must be odd, such as {kernel_size + 1}.")
        self.channels, self.kernel_size = channels, kernel_size

    def __call__(self, input_size: int) -> nn.Module:
        return _ConvolutionsAlongPieces(input_size, self.channels, self.kernel_size)

    def __repr__(self) -> str:
        return f"CNNBody({', '.join(map(str, self.channels))}, kernel_size={self.kernel_size})"


class RNNBody:
    """A gated recurrent unit (GRU) that reads the pieces in order: a piece sees those before it.

    Args:
        units: of its state.
    """

    def __init__(self, units: int) -> None:
        require_whole("units of RNNBody", units)
        self.units = units

    def __call__(self, input_size: int) -> nn.Module:
        return _RecurrenceAlongPieces(input_size, self.units)

    def __repr__(self) -> str:
        return f"RNNBody({self.units})"


class AttentionBody:
    """A transformer block over the pieces: each sees all others, and the tokens of a condition that is a set.

    Args:
        units: the width of the block.
        heads: of its attention; they must divide the units.
    """

    def __init__(self, units: int, heads: int = 4) -> None:
        require_whole("units of AttentionBody", units)
        require_whole("heads of AttentionBody", heads)
        if units % heads:
            raise UserError(f"AttentionBody has {units} units, which {heads} heads do not divide; change one of them.")
        self.units, self.heads = units, heads

    def __call__(self, input_size: int, token_size: int | None = None) -> nn.Module:
        return _AttentionOverPieces(input_size, token_size, self.units, self.heads)

    def __repr__(self) -> str:
        return f"AttentionBody({self.units}, heads={self.heads})"


class _ConvolutionsAlongPieces(nn.Module):
    def __init__(self, input_size: int, channels: tuple[int, ...], kernel_size: int) -> None:
        super().__init__()
        sizes = [input_size, *channels]
        self.convolutions = nn.ModuleList(
            _start_as_he(nn.Conv1d(before, after, kernel_size, padding=kernel_size // 2))
            for before, after in zip(sizes, channels, strict=False)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [*, N, I] to [*, N, F]."""
        x = inputs.reshape(-1, *inputs.shape[-2:]).transpose(1, 2)  # [B, I, N]
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        x = x.transpose(1, 2)
        return x.reshape(*inputs.shape[:-1], x.shape[-1])


class _RecurrenceAlongPieces(nn.Module):
    def __init__(self, input_size: int, units: int) -> None:
        super().__init__()
        self.recurrence = nn.GRU(input_size, units, batch_first=True)
        # Not zero, from which the recurrent weights would get no gradient where there is only one piece.
        self.start = nn.Parameter(torch.randn(units))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [*, N, I] to [*, N, F]."""
        x = inputs.reshape(-1, *inputs.shape[-2:])  # [B, N, I]
        start = self.start.expand(1, len(x), -1).contiguous()
        x, _ = self.recurrence(x, start)
        return x.reshape(*inputs.shape[:-1], x.shape[-1])

    def train(self, mode: bool = True) -> "_RecurrenceAlongPieces":
        """Set the mode; but cuDNN differentiates a GRU only in training mode, which changes nothing else in it."""
        super().train(mode)
        self.recurrence.train()
        return self


class _Attention(nn.Module):
    """Attention with several heads, from x to the tokens that it reads, after layer norm, and added to x."""

    def __init__(self, units: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(units)
        self.query, self.key_and_value = nn.Linear(units, units), nn.Linear(units, 2 * units)
        self.output = nn.Linear(units, units)

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Map x [*, N, U], with tokens [*, M, U] or x itself to read, to [*, N, U]."""
        normed = self.norm(x)
        key, value = self.key_and_value(normed if tokens is None else tokens).chunk(2, dim=-1)
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for each in (self.query(normed), key, value)
        )
        read = F.scaled_dot_product_attention(query, key, value)  # [*, heads, N, U / heads]
        return x + self.output(read.transpose(-3, -2).flatten(-2))


class _FeedForward(nn.Sequential):
    """Two linear layers with a ReLU between them, after layer norm, and added to their input [*, N, U]."""

    def __init__(self, units: int) -> None:
        super().__init__(nn.LayerNorm(units), nn.Linear(units, 2 * units), nn.ReLU(), nn.Linear(2 * units, units))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class _AttentionOverPieces(nn.Module):
    def __init__(self, input_size: int, token_size: int | None, units: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, units)
        self.among_pieces = _Attention(units, heads)
        if token_size is not None:
            self.embed_tokens = nn.Linear(token_size, units)
            self.among_tokens = nn.Sequential(_Attention(units, heads), _FeedForward(units), nn.LayerNorm(units))
            self.to_tokens = _Attention(units, heads)
        self.feed_forward = _FeedForward(units)
        self.norm = nn.LayerNorm(units)

    def forward(self, inputs: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Map [*, N, I], and tokens [*, M, C] if the condition is a set, to [*, N, F]."""
        x = self.among_pieces(self.embed(inputs))
        if tokens is not None:
            x = self.to_tokens(x, self.among_tokens(self.embed_tokens(tokens)))
        return self.norm(self.feed_forward(x))


def _start_as_he(layer: nn.Linear | nn.Conv1d) -> nn.Module:
    """Initialise a layer before a ReLU as He et al.: normal with variance 2 / fan-in, bias zero."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
