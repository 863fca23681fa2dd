"""Compiled graphs of time steps on disk, where a later process finds them without tracing the step.

PyTorch keeps what it has compiled, too, but looks it up by the traced graph and by hashes of its own sources, and
tracing and hashing take longer than loading. The files lie in PyTorch's cache directory.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._inductor import CompiledArtifact, config
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch._inductor.standalone_compile import AOTCompiledArtifact

from hypernets.recurrent.written_step import written_step


def path_of_graph(cell: nn.Module, device: torch.device, *what_else: Any) -> Path | None:
    """Return where the graph of a cell's time step belongs, or None if it is not to be kept.

    Everything that the graph depends on is in the name. So only graphs of this package's own cells are kept, whose
    code is known, and only graphs for the CPU: a machine may have several kinds of GPUs.

    Args:
        cell: the cell.
        device: where the graph runs.
        what_else: whatever else tells two graphs apart, with a `repr` that says all.
    """
    if written_step(cell) is None or device.type != "cpu" or config.force_disable_caches:
        return None
    settings = [
        (name, type(module).__name__, setting, value)
        for name, module in cell.named_modules()
        for setting, value in sorted(vars(module).items())
        if isinstance(value, bool | int | float) and setting != "training"  # without dropout, masks are None
    ]
    machine = torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    name = hashlib.sha256(repr((_sources(), machine, settings, what_else)).encode()).hexdigest()
    return Path(cache_dir(), "hypernets", name)


@functools.cache
def _sources() -> str:
    """A hash of the code that defines the cells and their graphs."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def load_graph(path: Path | None, options: Mapping[str, Any]) -> Callable | None:
    """Return the graph that was compiled with these options and kept there; None if there is none."""
    if path is None or not path.exists():
        return None
    try:
        with config.patch(options):  # which tell where PyTorch keeps the graph's machine code
            return CompiledArtifact.load(path=os.fspath(path))
    except (AssertionError, RuntimeError):
        return None  # it is of another build of PyTorch, or its machine code is gone and there is no compiler


def keep_graph(path: Path, graph: AOTCompiledArtifact) -> None:
    """Write the graph there, whole or not at all, unless PyTorch cannot, as where its own cache is switched off."""
    if graph.inner_fn.serialize is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        graph.save(path=os.fspath(path))
