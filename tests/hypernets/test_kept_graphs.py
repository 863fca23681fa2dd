"""Compiled graphs that are kept on disk: found again where they fit, and only there."""

import functools
import gc
import os
import subprocess
import sys
import weakref

import pytest
import sympy
import torch
from torch._inductor.codegen import cpp
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

from hypernets import LSTM, HyperLSTM
from hypernets.recurrent import kept_graphs, step_compiler
from hypernets.recurrent.kept_graphs import path_of_graph

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where graphs are kept, apart from those of other tests."""
    folder = tmp_path / "hypernets"
    monkeypatch.setattr(kept_graphs, "_folder", lambda: folder)
    return folder


@pytest.fixture
def no_tracing(folder, monkeypatch):
    """Keep the graphs of a Layer Norm LSTM, then let none be traced."""
    gradients(compiled(LSTM(5, 7, layer_norm=True)))
    monkeypatch.setattr(step_compiler, "make_fx", lambda *_, **__: pytest.fail("a graph was traced"))


def compiled(layer):
    layer.compile()
    return layer


def gradients(layer, batch_size=2, dtype=torch.float32):
    torch.manual_seed(0)
    output, _ = layer.to(dtype)(torch.randn(4, batch_size, 5, dtype=dtype))
    return torch.autograd.grad(output.square().sum(), list(layer.parameters()))


def assert_right(layer):
    actual = gradients(layer)
    reference = LSTM(5, 7, layer_norm=True)
    reference.load_state_dict(layer.state_dict())
    torch.testing.assert_close(actual, gradients(reference), atol=1e-5, rtol=1e-5)


@pytest.mark.compiler
def test_a_later_layer_needs_no_tracing(no_tracing):
    assert_right(compiled(LSTM(5, 7, layer_norm=True)))


@pytest.mark.compiler
def test_another_forget_bias_is_another_graph(no_tracing):
    with pytest.raises(pytest.fail.Exception, match="a graph was traced"):
        gradients(compiled(LSTM(5, 7, layer_norm=True, forget_bias=2.0)))


IN_ANOTHER_PROCESS = """
import sys, torch
from hypernets import LSTM
torch.set_num_threads({threads})
layer = LSTM(5, 7, layer_norm=True)
layer.compile()
layer(torch.randn(4, 2, 5))[0].square().sum().backward()
print("torch._inductor" in sys.modules)
"""


@pytest.mark.compiler
def test_another_process_does_not_even_import_the_compiler(no_tracing, tmp_path):
    program = IN_ANOTHER_PROCESS.format(threads=torch.get_num_threads())
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).strip() == "False"


@pytest.mark.compiler
def test_a_cell_is_not_kept_alive_by_a_derivative_that_nobody_asked_for(folder):
    layer = compiled(LSTM(5, 7, layer_norm=True))
    layer(torch.randn(4, 2, 5))
    cell = weakref.ref(layer.cells[0])
    del layer
    gc.collect()
    assert cell() is None


@pytest.mark.compiler
def test_goes_on_after_an_interruption(folder, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    layer = compiled(LSTM(5, 7, layer_norm=True))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(step_compiler, "entry_of", interrupt)
        gradients(layer)
    assert_right(layer)


@pytest.mark.compiler
def test_what_is_no_library_is_replaced_by_one(folder, monkeypatch):
    gradients(compiled(LSTM(5, 7, layer_norm=True)))
    libraries = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(libraries) == 2
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    for name in libraries:
        (elsewhere / name).write_bytes(b"no library")
    monkeypatch.setattr(kept_graphs, "_folder", lambda: elsewhere)
    assert_right(compiled(LSTM(5, 7, layer_norm=True)))
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == libraries


@pytest.mark.compiler
def test_where_pytorch_keeps_its_libraries_elsewhere_nothing_is_kept(folder, monkeypatch):
    compile_fx_inner = step_compiler.compile_fx_inner

    def of_another_version(*arguments, **settings):
        compiled = compile_fx_inner(*arguments, **settings)
        compiled.current_callable = functools.partial(compiled.current_callable)
        return compiled

    monkeypatch.setattr(step_compiler, "compile_fx_inner", of_another_version)
    assert_right(compiled(LSTM(5, 7, layer_norm=True)))
    assert not folder.exists()


def test_the_name_says_all_that_a_graph_depends_on(monkeypatch):
    def path(*what_else, **settings):
        return path_of_graph(HyperLSTM(3, 4, hyper_size=2, **settings).cells[0], CPU, what_else)

    first, threads = path(), torch.get_num_threads()
    assert path() == first
    others = [path("derivative"), path(layer_norm=False), path(forget_bias=0.0)]
    torch.set_num_threads(threads + 1)
    others.append(path())
    torch.set_num_threads(threads)
    monkeypatch.setattr(kept_graphs, "_sources", lambda: "of another version")
    others.append(path())
    assert len({first, *others}) == 1 + len(others)


@pytest.mark.compiler
@pytest.mark.parametrize("change", [{"batch_size": 3}, {"dtype": torch.float64}])
def test_other_tensors_are_another_graph(no_tracing, change):
    with pytest.raises(pytest.fail.Exception, match="a graph was traced"):
        gradients(compiled(LSTM(5, 7, layer_norm=True)), **change)


class Scaled(LSTM.cell_type):
    def update(self, gates, *arguments):
        return super().update(2 * gates, *arguments)


def test_no_graph_is_kept_of_code_that_may_change():
    cell = LSTM(3, 4).cells[0]
    assert path_of_graph(cell, CPU) is not None
    assert path_of_graph(Scaled(3, 4), CPU) is None
    assert path_of_graph(cell, torch.device("cuda")) is None
    with torch.compiler.config.patch(force_disable_caches=True):
        assert path_of_graph(cell, CPU) is None
    cell.register_forward_hook(lambda *_: None)
    assert path_of_graph(cell, CPU) is None


def test_strides_of_indices_are_those_of_pytorch(monkeypatch):
    i, j = sympy.symbols("i j", integer=True, nonnegative=True)
    simple = (1000 * i + j, 4 * (250 * i + j) + 7, 3 * i, i * j)
    others = (FloorDiv(j, 16) + i, 1000 * i + ModularIndexing(j, 1, 32), FloorDiv(j, 3))

    def strides():
        cpp.stride_at_vec_range.cache_clear()
        return [cpp.stride_at_vec_range(index, j, 16) for index in (*simple, *others)]

    expected, simplify, simplified = strides(), sympy.simplify, []
    monkeypatch.setattr(sympy, "simplify", lambda index: simplified.append(index) or simplify(index))
    with step_compiler.simple_indices_as_they_are():
        assert strides() == expected == [1, 4, 0, i, 0, 1, expected[-1]]
    assert not set(simple) & set(simplified)
