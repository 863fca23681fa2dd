"""Functions of tensors as compiled graphs: what `compile()` of a recurrent layer does to its time steps."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch._functorch.config
from torch import Tensor
from torch._inductor import config, sizevars
from torch._inductor.codecache import CppWrapperCodeCache
from torch._inductor.codegen import cpp
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

from hypernets.recurrent.kept_graphs import keep_graph, load_graph
from hypernets.recurrent.step_operations import REWRITTEN

if TYPE_CHECKING:
    from torch._inductor.output_code import CompiledFxGraph

OPTIONS = {
    # The compiler is not tried out on every instruction set of the processor first: that takes as long as a graph.
    "cpp.vec_isa_ok": True,
    # Products and sums become one instruction, and what takes thirty operations is stored instead of computed again
    # wherever it is read. Both save time, most of all in the derivative.
    "cpp.enable_floating_point_contract_flag": "fast",
    "realize_opcount_threshold": 30,
}


class Building:
    """The entry of a graph whose C++ is still being compiled, on another core. A call waits for it.

    It takes what `CppWrapperCodeCache.load_pybinding` takes, which would wait at once.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        begin = CppWrapperCodeCache.load_pybinding_async
        self.wait = begin(*arguments, **settings, submit_fn=ThreadPoolExecutor(1).submit)

    def __call__(self, *handles: Any) -> Any:
        return self.wait()(*handles)


def compile_graph(function: Callable, tensors: list[Tensor], path: Path | None) -> Callable[[], Callable]:
    """Trace the function for tensors of these shapes and layouts, and begin to compile it.

    Python's part is done here. On a CPU, it writes C++ that is compiled on another core meanwhile.

    Args:
        function: takes tensors, one after another, and returns a tuple of tensors.
        tensors: such arguments.
        path: where to keep the graph, or None.

    Returns:
        A function that waits for the graph and returns it. If compiling fails, usually for lack of a compiler, a
        warning says so, and it is the traced function as it is.
    """
    # On a CPU, the code that calls the kernels is C++, too, which has less overhead than Python. On a GPU, compiling it
    # would need the headers of CUDA.
    on_cpu = tensors[0].device.type == "cpu"
    if on_cpu:
        compile_headers_meanwhile()
    # Some are parts of the same tensor. They never overlap, so the compiler may take them for separate ones.
    tensors = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in tensors]

    def trace(decompositions: dict | None = None) -> Callable:
        # Buffers are not fake; they become constants.
        tracer = make_fx(function, decompositions, tracing_mode="fake", _allow_non_fake_inputs=True)
        # The caller's hooks, of activation checkpointing for example, are not for tensors that are only traced.
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            return tracer(*tensors)

    fused = trace(REWRITTEN)
    compiled: list[CompiledFxGraph] = []

    def inner_compile(*arguments: Any, **settings: Any) -> Any:
        compiled.append(compile_fx_inner(*arguments, **settings))
        return compiled[-1]

    @cache
    def finished() -> Callable:  # it must not hold the function, which may hold a cell
        try:
            entry = entry_of(compiled[0])
        except RuntimeError as error:
            warn_that_compiling_failed(str(error))
            return fused
        if path is not None and entry is not None:
            keep_graph(path, entry)
        return load_graph(path) or graph

    # PyTorch's cache of whole functions might return this one without calling `inner_compile`.
    without_cache = torch._functorch.config.patch(enable_autograd_cache=False)
    try:
        with without_cache, patch.object(CppWrapperCodeCache, "load_pybinding", Building), simple_indices_as_they_are():
            graph = compile_fx(fused, tensors, inner_compile, config_patches=OPTIONS | {"cpp_wrapper": on_cpu})
    except RuntimeError as error:
        warn_that_compiling_failed(str(error))
        traced = trace()  # less work than `fused` where nothing is fused
        return lambda: traced
    return finished


@contextlib.contextmanager
def simple_indices_as_they_are() -> Iterator[None]:
    """Keep PyTorch from simplifying indices that divide nothing, like 1000 * i + j, before it takes their strides.

    It would change nothing and take a fifth of the time that a graph needs in Python. PyTorch's pull request 186319
    leaves it out for all indices.
    """
    name = "simplify_index_in_vec_range"
    module = next((each for each in (sizevars, cpp) if hasattr(each, name)), None)  # in PyTorch 2.9, it is the second
    if module is None:
        yield
        return
    simplify = getattr(module, name)

    def unless_simple(index: Any, *variable_and_length: Any) -> Any:
        return simplify(index, *variable_and_length) if index.has(FloorDiv, ModularIndexing) else index

    with patch.object(module, name, unless_simple):
        yield


@cache  # once is enough
def warn_that_compiling_failed(message: str) -> None:
    """Say that the time steps run uncompiled, and why."""
    reason = message.strip().partition("\n")[0]
    warnings.warn(
        f"The time steps of recurrent layers run uncompiled, and slower, because compiling failed here: {reason}",
        stacklevel=2,
    )


def entry_of(compiled: "CompiledFxGraph") -> Callable | None:
    """Wait for the machine code of a graph, and return the function that runs it; None if it is not in a library."""
    try:
        entry = compiled.current_callable.__globals__["inductor_entry"]
    except (AttributeError, KeyError):
        return None  # it is on a GPU, or this version of PyTorch has it elsewhere
    return entry.wait() if isinstance(entry, Building) else entry


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
