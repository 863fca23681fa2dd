"""The time step of a recurrent layer as compiled graphs, after `compile()`: one of the step, one of its derivative."""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._inductor import config, standalone_compile
from torch._inductor.codecache import CppWrapperCodeCache
from torch.fx.experimental.proxy_tensor import make_fx

from hypernets.recurrent.kept_graphs import keep_graph, load_graph, path_of_graph
from hypernets.recurrent.recurrence import Operands, Plan, Step, without_garbage_collection
from hypernets.recurrent.step_operations import LARGEST_FUSED_SUM, REWRITTEN


class CompiledStep(Step):
    """What `Step` does, compiled for the shapes and layouts of the tensors; later processes find it on disk."""

    _compiled: WeakKeyDictionary[nn.Module, dict[Any, Callable]] = WeakKeyDictionary()

    def __init__(self, plan: Plan, operands: Operands) -> None:
        super().__init__(plan, operands)
        self.parameters = [laid_out_for_steps(parameter) for parameter in operands.parameters]
        self._functions: dict[str, Callable] = {}

    def rooms(self, d_products: Sequence[Tensor]) -> list[Tensor]:
        """See `Step`. They get an axis for the gates, without which compiled code would write one number at a time."""
        return [with_gates(room, self.plan.cell.state_sizes) for room in super().rooms(d_products)]

    def within(self, work: Callable[[], Any]) -> Any:
        """Do the work; the graphs take the parameters as arguments."""
        return work()

    def next_state(self, inputs: Sequence[Tensor], h: Tensor) -> Sequence[Tensor]:
        """See `Step`."""
        return self._run("next_state", [inputs, [h]])

    def derivative(self, *groups: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `Step`."""
        return self._run("derivative", groups)

    def _run(self, kind: str, groups: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        tensors = [tensor for group in (self.parameters, *groups) for tensor in group]
        if kind not in self._functions:  # all calls of one object are with tensors of the same shapes and layouts
            layouts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
            known = self._compiled.setdefault(self.plan.cell, {})
            key = kind, self.plan.autocast, tuple(mask is None for mask in self.masks), layouts
            if key not in known:
                path = path_of_graph(self.plan.cell, tensors[0].device, key, OPTIONS)
                known[key] = compile_graph(self._function(kind, [len(group) for group in groups]), tensors, path)
            self._functions[kind] = known[key]
        return self._functions[kind](*tensors)

    def _function(self, kind: str, sizes: Sequence[int]) -> Callable:
        """Return the method of `Step` as a function of the parameters and then its arguments, one after another."""

        def function(*tensors: Tensor) -> Any:
            remaining = iter(tensors)
            step = Step.__new__(Step)
            vars(step).update(vars(self))
            step.parameters = [p.detach().requires_grad_() for p in islice(remaining, len(self.parameters))]
            groups = [list(islice(remaining, size)) for size in sizes]
            if kind == "next_state":
                groups[1] = groups[1][0]
            return tuple(step.within(lambda: getattr(step, kind)(*groups)))

        return function


OPTIONS = {
    # The compiler is not tried out on every instruction set of the processor first: that takes as long as a graph.
    "cpp.vec_isa_ok": True,
    # Products and sums become one instruction, and what takes thirty operations is stored instead of computed again
    # wherever it is read. Both save time, most of all in the derivative.
    "cpp.enable_floating_point_contract_flag": "fast",
    "realize_opcount_threshold": 30,
}


@without_garbage_collection()
def compile_graph(function: Callable, tensors: list[Tensor], path: Path | None) -> Callable:
    """Load the graph at `path`, if there is one; otherwise trace the function for tensors like these and compile it.

    The graph is for their shapes and layouts.

    If that fails, usually for lack of a compiler, a warning says so and the traced function is returned as it is.
    """
    # On a CPU, the code that calls the kernels is C++, too, which has less overhead than Python. On a GPU, compiling it
    # would need the headers of CUDA.
    patches = OPTIONS | {"cpp_wrapper": tensors[0].device.type == "cpu"}
    if (kept := load_graph(path, patches)) is not None:
        return kept
    if patches["cpp_wrapper"]:
        compile_headers_meanwhile()
    # Some are parts of the same tensor. They never overlap, so the compiler may take them for separate ones.
    tensors = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in tensors]
    trace = partial(make_fx, function, tracing_mode="fake", _allow_non_fake_inputs=True)  # buffers, as constants
    fused = trace(REWRITTEN)(*tensors)
    try:
        options = {"config_patches": patches}
        is_kept = path is not None
        graph = standalone_compile(fused, tensors, dynamic_shapes="from_graph", options=options, aot=is_kept)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"The time steps of recurrent layers run uncompiled, and slower, because compiling failed here: {reason}",
            stacklevel=2,
        )
        return trace()(*tensors)
    if is_kept:
        keep_graph(path, graph)
    return graph


@cache  # they are needed once
def compile_headers_meanwhile() -> None:
    """Have PyTorch compile its C++ headers on another core, if its cache lacks them, while the first graph is traced.

    Otherwise it would do that after the tracing, which takes as long.
    """

    def compile_headers() -> None:
        with contextlib.suppress(Exception):  # if the graph needs them, compiling it will say what is wrong
            CppWrapperCodeCache.load_async("", needs_vec_isa=True)

    with config.patch(OPTIONS | {"cpp_wrapper": True}):
        options = copy_context()
    Thread(target=options.run, args=(compile_headers,), daemon=True).start()


def with_gates(room: Tensor, sizes: Sequence[int]) -> Tensor:
    """View the room for a product [B, rows] as [B, gates, units], for the largest of these sizes that divides rows."""
    rows = room.shape[1]
    return room.unflatten(-1, (-1, max((size for size in sizes if rows % size == 0), default=rows)))


def laid_out_for_steps(parameter: Tensor) -> Tensor:
    """Return the parameter, with its columns contiguous where a step reads them one by one."""
    is_narrow = parameter.dim() == 2 and parameter.shape[1] <= LARGEST_FUSED_SUM
    return parameter.t().contiguous().t() if is_narrow else parameter.contiguous()
