"""The forward and backward pass of a training step as one CUDA graph.

On a GPU, a step of a small network waits for the host, which launches its operations one by one; most of all a
recurrent layer, which has some for every time step. A graph launches all of them at once. What comes after the
gradients, such as clipping and the optimizer, is a few fused operations and stays outside.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

WARM_UP = 3  # passes before the recording, in which compilers compile and libraries choose their algorithms


class CapturedPass:
    """A pass that is recorded once for batches of one kind, and from then on replayed.

    Batches are of one kind if their tensors have the same shapes, and all else in them is equal, except for floating-
    point numbers. A batch of another kind is computed without a graph, unless it comes `WARM_UP` times in a row: then
    the next one is recorded in place of the first.

    The pass must launch the same operations for every batch of a kind, and must not wait for the device.

    Args:
        compute: the pass, (batch, carried) -> (loss, state to carry). It leaves gradients in the `grad` of the
            parameters, after setting them to None.
        parameters: whose gradients these are.
    """

    def __init__(self, compute: Callable[[Any, Any], tuple[Tensor, Any]], parameters: Sequence[nn.Parameter]) -> None:
        self._compute, self._parameters = compute, parameters
        self._kind = self._recorded_kind = None
        self._times = 0  # that batches of this kind came, one after another
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Any, carried: Any) -> tuple[Tensor, Any]:
        """Do what `compute` does. The next call overwrites the tensors that this one returns, and the gradients."""
        leaves, structure = tree_flatten((batch, carried))
        kind = structure, [_described(leaf) for leaf in leaves]
        self._times = self._times + 1 if kind == self._kind else 1
        self._kind = kind
        if kind == self._recorded_kind:
            for place, leaf in zip(self._inputs, leaves, strict=True):
                _write(place, leaf)
        elif self._times <= WARM_UP:
            return on_side_stream(lambda: self._compute(batch, carried))
        else:
            self._record(kind, leaves)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._results

    def _record(self, kind: Any, leaves: Sequence[Any]) -> None:
        self._replay = self._results = self._gradients = None  # the memory of the last graph is free for the new one
        for parameter in self._parameters:
            parameter.grad = None
        device = self._parameters[0].device
        self._inputs = [_place(leaf, device) for leaf in leaves]
        self._results, self._replay = record(lambda: self._compute(*tree_unflatten(self._inputs, kind[0])))
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._recorded_kind = kind


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
    """Compute on a stream of its own, as CUDA asks for before a recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = compute()
    torch.cuda.current_stream().wait_stream(stream)
    return results


def record(compute: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record what is computed, without doing it. Return the results, which a replay fills, and the replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = compute()
    return results, graph.replay
