"""Compiled graphs of time steps on disk, where a later process finds them without tracing or compiling anything.

PyTorch keeps what it has compiled, too, but finds it only after it has imported its compiler, traced the step and
hashed its own sources, which takes some seconds. So we keep the shared library with the machine code of each graph,
and call it the way PyTorch does. The files lie in PyTorch's cache directory.
"""

import functools
import getpass
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypernets.recurrent.written_step import written_step

ENTRY = "inductor_entry_cpp"  # PyTorch's name for the module in a library, and for its one function


def path_of_graph(cell: nn.Module, device: torch.device, *what_else: Any) -> Path | None:
    """Return where the graph of a cell's time step belongs, or None if it is not to be kept.

    Everything that the graph depends on is in the name. So only graphs of this package's own cells are kept, whose
    code is known, and only graphs for the CPU: a machine may have several kinds of GPUs.

    Args:
        cell: the cell.
        device: where the graph runs.
        what_else: whatever else tells two graphs apart, with a `repr` that says all.
    """
    if written_step(cell) is None or device.type != "cpu" or torch.compiler.config.force_disable_caches:
        return None
    settings = [
        (name, type(module).__name__, setting, value)
        for name, module in cell.named_modules()
        for setting, value in sorted(vars(module).items())
        if isinstance(value, bool | int | float) and setting != "training"  # without dropout, masks are None
    ]
    program = sys.implementation.cache_tag, torch.__version__, torch.get_num_threads(), _sources()
    # PyTorch compiles for the processor that it runs on; older versions do not say what that can do.
    processor = torch.backends.cpu.get_cpu_capability(), getattr(torch.cpu, "get_capabilities", dict)()
    name = hashlib.sha256(repr((program, processor, settings, what_else)).encode()).hexdigest()
    return _folder() / f"{name}.so"


@functools.cache
def _sources() -> str:
    """A hash of the code that defines the cells and their graphs."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _folder() -> Path:
    """Our folder in PyTorch's cache directory, found by PyTorch's rule: importing that would import the compiler."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as somebody without a name
        user = f"uid_{os.getuid()}"
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{user}"), "hypernets")


def load_graph(path: Path | None) -> Callable | None:
    """Return the graph that is kept there; None if there is none, or none that can be loaded."""
    if path is None or not path.exists():
        return None
    # Every such library reads this address when it is loaded, but only those for single kernels use it.
    address = torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(address)
    spec = spec_from_file_location(f"{path.stem}.{ENTRY}", path)  # Python wants a name of its own for each library
    try:
        library = module_from_spec(spec)
    except ImportError:  # it is damaged, or of another build of PyTorch
        return None
    return functools.partial(_call, getattr(library, ENTRY))


def _call(entry: Callable, *tensors: Tensor) -> list[Tensor]:
    handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
    return torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(entry(handles))


def keep_graph(path: Path, entry: Callable) -> None:
    """Copy the library of a graph, which this is the entry of, to this path, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        Path(shutil.copy(entry.__self__.__file__, folder)).replace(path)
