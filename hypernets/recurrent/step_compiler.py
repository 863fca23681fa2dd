"""Functions of tensors as compiled graphs: what `compile()` of a recurrent layer does to its time steps."""

import contextlib
import warnings
from collections.abc import Callable
from contextvars import copy_context
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch._inductor import config
from torch._inductor.codecache import CppWrapperCodeCache
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch.fx.experimental.proxy_tensor import make_fx

from hypernets.recurrent.kept_graphs import keep_graph, load_graph
from hypernets.recurrent.step_operations import REWRITTEN

OPTIONS = {
    # The compiler is not tried out on every instruction set of the processor first: that takes as long as a graph.
    "cpp.vec_isa_ok": True,
    # Products and sums become one instruction, and what takes thirty operations is stored instead of computed again
    # wherever it is read. Both save time, most of all in the derivative.
    "cpp.enable_floating_point_contract_flag": "fast",
    "realize_opcount_threshold": 30,
}


def compile_graph(function: Callable, tensors: list[Tensor], path: Path | None) -> Callable:
    """Trace the function for tensors of these shapes and layouts, and compile it.

    If that fails, usually for lack of a compiler, a warning says so and the traced function is returned as it is.

    Args:
        function: takes tensors, one after another, and returns a tuple of tensors.
        tensors: such arguments.
        path: where to keep the graph, or None.
    """
    # On a CPU, the code that calls the kernels is C++, too, which has less overhead than Python. On a GPU, compiling it
    # would need the headers of CUDA.
    on_cpu = tensors[0].device.type == "cpu"
    if on_cpu:
        compile_headers_meanwhile()
    # Some are parts of the same tensor. They never overlap, so the compiler may take them for separate ones.
    tensors = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in tensors]
    trace = partial(make_fx, function, tracing_mode="fake", _allow_non_fake_inputs=True)  # buffers, as constants
    fused = trace(REWRITTEN)(*tensors)
    compiled = []

    def inner_compile(*arguments: Any, **settings: Any) -> Any:
        compiled.append(compile_fx_inner(*arguments, **settings))
        return compiled[-1]

    try:
        # PyTorch's cache of whole functions may return this one without calling `inner_compile`.
        with torch._functorch.config.patch(enable_autograd_cache=path is None):
            graph = compile_fx(fused, tensors, inner_compile, config_patches=OPTIONS | {"cpp_wrapper": on_cpu})
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"The time steps of recurrent layers run uncompiled, and slower, because compiling failed here: {reason}",
            stacklevel=2,
        )
        return trace()(*tensors)
    if path is not None:
        keep_graph(path, compiled[0])
    return load_graph(path) or graph


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
