"""The forward and backward pass of a training step as one CUDA graph.

In a step of a small network, a GPU waits for the host, which launches the operations one by one. Recurrent layers have
the most of them, some for every time step. A graph launches all at once. What follows the gradients, such as clipping
and the optimizer, takes only a few fused operations and stays outside.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

WARM_UP = 3  # passes before the recording, in which compilers compile and libraries choose their algorithms


class Recording(NamedTuple):
    """A graph, and the tensors that it reads and writes."""

    kind: Any  # of batches
    inputs: list[Any]
    results: tuple[Tensor, Any]
    gradients: list[Tensor | None]
    replay: Callable[[], None]


class CapturedPass:
    """A pass that is recorded once for batches of one kind, and from then on replayed.

    Batches are of one kind if their tensors have the same shapes, and all else in them is equal, except for
    floating-point numbers. A batch of another kind is computed without a graph, unless `WARM_UP` of its kind have just
    come in a row: then it is recorded, and the earlier recording is given up.

    The pass must launch the same operations for every batch of a kind, and must not wait for the device.

    Args:
        compute: the pass, (batch, carried) -> (loss, state to carry). It leaves gradients in the `grad` of the
            parameters, after setting them to None.
        parameters: whose gradients these are.
    """

    def __init__(self, compute: Callable[[Any, Any], tuple[Tensor, Any]], parameters: Sequence[nn.Parameter]) -> None:
        self._compute, self._parameters = compute, parameters
        self._recording: Recording | None = None
        self._kind: Any = None  # of the last batch
        self._times = 0  # that batches of this kind came, one after another

    def __call__(self, batch: Any, carried: Any) -> tuple[Tensor, Any]:
        """Do what `compute` does. The next call overwrites the tensors that this one returns, and the gradients."""
        leaves, structure = tree_flatten((batch, carried))
        kind = structure, [_described(leaf) for leaf in leaves]
        self._times = self._times + 1 if kind == self._kind else 1
        self._kind = kind
        if self._recording is not None and kind == self._recording.kind:
            for place, leaf in zip(self._recording.inputs, leaves, strict=True):
                _write(place, leaf)
        elif self._times <= WARM_UP:
            return on_side_stream(lambda: self._compute(batch, carried))
        else:
            self._recording = None  # first, so that the new graph can have its memory
            self._recording = self._record(kind, leaves)
        self._recording.replay()
        for parameter, gradient in zip(self._parameters, self._recording.gradients, strict=True):
            parameter.grad = gradient
        return self._recording.results

    def _record(self, kind: Any, leaves: Sequence[Any]) -> Recording:
        for parameter in self._parameters:
            parameter.grad = None
        inputs = [_place(leaf, self._parameters[0].device) for leaf in leaves]
        results, replay = record(lambda: self._compute(*tree_unflatten(inputs, kind[0])))
        return Recording(kind, inputs, results, [parameter.grad for parameter in self._parameters], replay)


def _described(leaf: Any) -> Any:
    """What the leaves of batches of one kind have in common."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return float if isinstance(leaf, float) else leaf


def _place(leaf: Any, device: torch.device) -> Any:
    """Where a graph reads a leaf. A number that may change has to lie on the device."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    return torch.full((), leaf, dtype=torch.float32, device=device) if isinstance(leaf, float) else leaf


def _write(place: Any, leaf: Any) -> None:
    if isinstance(leaf, Tensor):
        place.copy_(leaf)
    elif isinstance(leaf, float):
        place.fill_(leaf)


def on_side_stream(compute: Callable[[], Any]) -> Any:
    """Compute on another stream, as CUDA graphs require before a recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = compute()
    torch.cuda.current_stream().wait_stream(stream)
    return results


def record(compute: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record a computation without running it. Return its results, which are filled by the replay, and the replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = compute()
    return results, graph.replay
