"""Compiled graphs that are kept on disk: found again where they fit, and only there."""

import pytest
import torch
from torch._inductor import config
from torch._inductor.codecache import torch_key

from hypernets import LSTM, HyperLSTM
from hypernets.recurrent import compiled_step, kept_graphs
from hypernets.recurrent.kept_graphs import path_of_graph

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where graphs are kept; the machine code stays in PyTorch's own cache."""
    monkeypatch.setattr(kept_graphs, "cache_dir", lambda: str(tmp_path))
    return tmp_path / "hypernets"


@pytest.fixture
def no_tracing(folder, monkeypatch):
    """Keep the graphs of a Layer Norm LSTM, then let none be traced."""
    gradients(compiled(LSTM(5, 7, layer_norm=True)))
    monkeypatch.setattr(compiled_step, "make_fx", lambda *_, **__: pytest.fail("a graph was traced"))


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


@pytest.mark.compiler
def test_a_graph_of_another_build_of_pytorch_is_compiled_again(folder):
    gradients(compiled(LSTM(5, 7, layer_norm=True)))
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 2
    for path, content in whole.items():
        assert torch_key() in content
        path.write_bytes(content.replace(torch_key(), bytes(len(torch_key()))))
    assert_right(compiled(LSTM(5, 7, layer_norm=True)))
    assert all(torch_key() in path.read_bytes() for path in whole)


@pytest.mark.compiler
def test_without_the_cache_of_pytorch_nothing_is_kept(folder):
    with config.patch(fx_graph_cache=False):
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
    with config.patch(force_disable_caches=True):
        assert path_of_graph(cell, CPU) is None
    cell.register_forward_hook(lambda *_: None)
    assert path_of_graph(cell, CPU) is None
