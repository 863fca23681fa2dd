"""The static hypernetwork (section 3.1): kernels of a convolutional network generated from learned embeddings.

Shape legend
    M            basic kernels of all layers together (one embedding each)
    N_z          embedding size
    d            size of the first projection's output
    N_in, N_out  input and output channels of a basic kernel
    f            filter size (height and width may differ)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hypernets.errors import UserError, require_whole
from hypernets.transforms import is_transformed


def tileable_kernels(
    filter_size: int | tuple[int, int] = 3, basic_channels: tuple[int, int] = (16, 16)
) -> Callable[[str, Tensor], bool]:
    """Choose the convolution kernels that a `StaticHypernetwork` can generate, for the argument of `HyperDNN`.

    These have filters of the given size (height and width), and their channels are multiples of those of the basic
    kernel, (N_in, N_out). In most networks that leaves out the stem, which reads three channels, and 1x1 shortcuts.
    Leave transposed convolutions out yourself: their kernels are [c_in, c_out, ...], so they would be tiled and scaled
    the wrong way round.
    """
    size = _two_sizes("filter_size", filter_size if isinstance(filter_size, Sequence) else (filter_size, filter_size))
    return partial(_is_tileable, size, _two_sizes("basic_channels", basic_channels))


def _two_sizes(name: str, sizes: Sequence[int]) -> tuple[int, int]:
    if not isinstance(sizes, Sequence) or len(sizes) != 2:
        raise UserError(f"{name} is {sizes!r}; it must be two whole numbers, such as (16, 16).")
    for size in sizes:
        require_whole(f"An entry of {name}", size)
    return tuple(sizes)


def _is_tileable(size: tuple[int, int], basic_channels: tuple[int, int], name: str, parameter: Tensor) -> bool:
    shape, (n_in, n_out) = tuple(parameter.shape), basic_channels
    return len(shape) == 4 and shape[2:] == size and shape[0] % n_out == shape[1] % n_in == 0


class StaticHypernetwork(nn.Module):
    """A two-layer linear network that generates the kernels of all layers from one embedding per basic kernel.

        network = HyperDNN(resnet18(), partial(StaticHypernetwork, embedding_size=32), choose=tileable_kernels(3))

    For the embedding z of a basic kernel and each of its input slices i = 1..N_in (Eq. 2):

        a_i = W_i z + B_i            first projection, one per input slice
        K_i = <W_out, a_i> + B_out   second projection, shared by all slices

    A kernel with more channels than the basic kernel is tiled from (c_out / N_out) x (c_in / N_in) basic kernels,
    each with an embedding of its own (Eq. 3). The projections are shared by every kernel of every layer, so a few
    matrix products generate all kernels, however deep the main network is.

    In evaluation mode without gradients, the kernels are generated once and kept until a parameter changes, since the
    embeddings are then constant (section 3.1). Inference costs no more than with learned kernels. (Changes through
    `parameter.data`, NumPy arrays or `torch.distributed` cannot be noticed; call `eval()` after those. Under
    `torch.compile`, every call generates them.)

    Initialisation. The kernels start with the variance 2 / fan-in of He et al. for every layer, although layers of
    different widths share one generator. Both projections are semi-orthogonal matrices scaled to preserve the mean
    square of a vector's entries, and the biases are zero: with W the N_in d x N_z matrix that stacks all W_i,
    W^T W = (N_in d / N_z) I, so mean(a^2) = mean(z^2), and likewise W_out^T W_out = (N_out f^2 / d) I, so
    mean(K^2) = mean(z^2). The width of a layer then enters only through its embeddings: each z is drawn on the
    sphere where mean(z^2) = 2 / (c_in f^2). The equality is exact for each basic kernel where both matrices have at
    least as many rows as columns, as in all the paper's settings; otherwise it holds in expectation.

    Args:
        kernels: name -> kernel [c_out, c_in, height, width] of the main network, of which only the shape is read. All
            filters must have one size, and the channels must be multiples of the basic kernel's.
        embedding_size: N_z; the paper uses 64 for CIFAR-10 and 4 for MNIST.
        projection_size: d; N_z if not given, as in the paper.
        basic_channels: (N_in, N_out); the paper uses (16, 16).

    Raises:
        UserError: no kernels, or some that do not fit as above, or a size below one.
    """

    def __init__(
        self,
        kernels: Mapping[str, Tensor],
        embedding_size: int = 64,
        projection_size: int | None = None,
        basic_channels: tuple[int, int] = (16, 16),
    ) -> None:
        super().__init__()
        projection_size = embedding_size if projection_size is None else projection_size
        n_in, n_out = _two_sizes("basic_channels", basic_channels)
        require_whole("embedding_size", embedding_size)
        require_whole("projection_size", projection_size)
        self.shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
        height, width = _filter_size(self.shapes, n_in, n_out)
        self.basic_kernel_shape = (n_out, n_in, height, width)
        # (output, input) tiles of each kernel
        self.tiles = [(shape[0] // n_out, shape[1] // n_in) for shape in self.shapes.values()]
        num_basic_kernels = sum(rows * columns for rows, columns in self.tiles)

        self.embeddings = nn.Parameter(torch.empty(num_basic_kernels, embedding_size))
        # W_i is first_weight[:, i, :]: with d outermost, one product with W_out serves all slices.
        self.first_weight = nn.Parameter(torch.empty(projection_size, n_in, embedding_size))
        self.first_bias = nn.Parameter(torch.empty(projection_size, n_in))
        # W_out and B_out with the output channel and the position in the filter (N_out, f, f) flattened to rows.
        self.second_weight = nn.Parameter(torch.empty(n_out * height * width, projection_size))
        self.second_bias = nn.Parameter(torch.empty(n_out * height * width))
        self._kept: _Kept | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, so that every kernel has the variance 2 / fan-in (see the class)."""
        for weight in (self.first_weight, self.second_weight):
            columns = weight.shape[-1]
            rows = weight.numel() // columns
            nn.init.orthogonal_(weight.view(rows, columns), gain=math.sqrt(max(1.0, rows / columns)))
        nn.init.zeros_(self.first_bias)
        nn.init.zeros_(self.second_bias)
        nn.init.normal_(self.embeddings)
        mean_squares = [
            2 / (c_in * height * width)
            for (_, c_in, height, width), (rows, columns) in zip(self.shapes.values(), self.tiles, strict=True)
            for _ in range(rows * columns)
        ]
        target = self.embeddings.new_tensor(mean_squares).sqrt()
        self.embeddings.mul_((target / self.embeddings.square().mean(dim=1).sqrt()).unsqueeze(1))

    def forward(self, condition: None = None) -> dict[str, Tensor]:
        """Return name -> generated kernel [c_out, c_in, height, width], laid out channels-last.

        The embeddings are learned constants, so a condition is refused.
        """
        if condition is not None:
            raise UserError("A static hypernetwork takes no condition: leave it out, or use another hypernetwork.")
        parameters = list(self.parameters())
        is_plain = not (torch.compiler.is_compiling() or is_transformed() or any(p.is_inference() for p in parameters))
        if self.training or torch.is_grad_enabled() or not is_plain:
            self._kept = None
            return self._generate()
        if self._kept is None or not self._kept.is_of(parameters):
            with torch.inference_mode(False), torch.no_grad():  # so that they can be used outside of that mode, too
                kernels, parameters = self._generate(), [parameter.detach() for parameter in parameters]
            self._kept = _Kept(kernels, parameters, _versions(kernels, parameters))
        return dict(self._kept.kernels)

    def train(self, mode: bool = True) -> "StaticHypernetwork":
        """Set the mode, and forget the kernels that are kept."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kernels that are kept out of copies and pickles."""
        return {**vars(self), "_kept": None}

    def _generate(self) -> dict[str, Tensor]:
        # The generator is a few hundredths of the main network's arithmetic, but every kernel hangs on it: it runs in
        # full precision under autocast, and the convolutions round its output.
        with torch.autocast(self.embeddings.device.type, enabled=False):
            basic_kernels = self._basic_kernels()
        n_out, n_in, height, width = self.basic_kernel_shape
        kernels = {}
        layers = basic_kernels.split([rows * columns for rows, columns in self.tiles])
        for name, layer, (rows, columns) in zip(self.shapes, layers, self.tiles, strict=True):
            tiles = layer.view(rows, columns, n_out, height, width, n_in).permute(0, 2, 3, 4, 1, 5)
            kernels[name] = tiles.reshape(rows * n_out, height, width, columns * n_in).permute(0, 3, 1, 2)
        return kernels

    def _basic_kernels(self) -> Tensor:
        """Eq. 2 for all embeddings and slices at once: [M, N_out * f * f * N_in], the input slice fastest.

        Both projections are linear, so their product W_out W_i (and W_out B_i + B_out) is the same for every embedding
        and is computed once: K_i = (W_out W_i) z + (W_out B_i + B_out).
        """
        weight = self.second_weight @ self.first_weight.flatten(1)  # [N_out * f * f, N_in * N_z]
        bias = torch.addmm(self.second_bias.unsqueeze(1), self.second_weight, self.first_bias)  # [N_out * f * f, N_in]
        return torch.addmm(bias.flatten(), self.embeddings, weight.view(bias.numel(), -1).t())

    def categories(self) -> dict[str, str]:
        """Answer the five questions of Chauhan et al. (2023)."""
        shape = "x".join(map(str, self.basic_kernel_shape))
        return {
            "conditioned on": "nothing",
            "generation": f"component-wise: {len(self.embeddings):,} kernels of {shape}, 1 head",
            "inputs": "static",
            "outputs": "static",
            "architecture": "two linear layers",
        }

    def extra_repr(self) -> str:
        n_z, d = self.embeddings.shape[1], self.first_weight.shape[0]
        return f"{len(self.shapes)} kernels from {len(self.embeddings)} embeddings, N_z={n_z}, d={d}"


class _Kept(NamedTuple):
    """Kernels, the parameters that they were generated from (which so keep their memory), and all their versions."""

    kernels: dict[str, Tensor]
    parameters: list[Tensor]
    versions: list[int]

    def is_of(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are the parameters, and nothing has changed in place since."""
        same = all(
            own.data_ptr() == parameter.data_ptr() and own.dtype == parameter.dtype
            for own, parameter in zip(self.parameters, parameters, strict=True)
        )
        return same and self.versions == _versions(self.kernels, self.parameters)


def _versions(kernels: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[int]:
    return [tensor._version for tensor in (*kernels.values(), *parameters)]


def _filter_size(shapes: Mapping[str, tuple[int, ...]], n_in: int, n_out: int) -> tuple[int, int]:
    """Check that every kernel fits; return the height and width that all filters share."""
    if not shapes:
        raise UserError("A static hypernetwork needs at least one kernel to generate; it got none.")
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if len(shape) != 4:
            raise UserError(
                f"{name} has the shape {list(shape)}, but a static hypernetwork generates convolution kernels, [c_out, "
                "c_in, height, width]; choose them with choose=tileable_kernels(filter_size)."
            )
        if shape[2:] != shapes[first][2:]:
            raise UserError(
                f"{name} has {shape[2]}x{shape[3]} filters and {first} {shapes[first][2]}x{shapes[first][3]} ones; a "
                "static hypernetwork generates filters of one size, so use one for each size."
            )
        if shape[1] % n_in or shape[0] % n_out:
            raise UserError(
                f"{name} has {shape[1]} input and {shape[0]} output channels, which the basic kernel's {n_in} and "
                f"{n_out} do not divide; choose other basic_channels, or other kernels."
            )
    return shapes[first][2:]
