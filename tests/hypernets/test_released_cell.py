"""The released cell's golden vectors: forward, final state and all gradients; and what the loader refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hypernets import UserError
from hypernets.recurrent import recurrence
from hypernets.recurrent.hyperlstm import HyperLSTM
from hypernets.recurrent.lstm import LSTM
from hypernets.recurrent.released_cell import load_released_cell, released_arrays

GOLDEN = Path(__file__).parents[1] / "golden"
CELLS = ["hyperlstm_ln", "hyperlstm", "lstm_ln", "lstm"]


def read_golden(cell):
    """The arrays of a golden file as tensors, and those of them that are weights, by their released names."""
    with np.load(GOLDEN / f"{cell}.npz") as file:
        golden = {name: torch.from_numpy(file[name]) for name in file}
    return golden, {name.removeprefix("param:"): golden[name] for name in golden if name.startswith("param:")}


def assert_agrees(actual, expected, what):
    """Within 1e-5 of the largest entry."""
    assert actual.shape == expected.shape, what
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < 1e-5, f"{what} is {error:.1e} off"


def initial_state(layer, h, c):
    """The released state [B, units + hyper units] as this package's, with the leading layer axis."""
    units = layer.hidden_size
    parts = [h, c] if h.shape[1] == units else [h[:, :units], c[:, :units], h[:, units:], c[:, units:]]
    return tuple(part.unsqueeze(0) for part in parts)


COMPILED = ["hyperlstm_ln", *(pytest.param(cell, marks=pytest.mark.slow) for cell in CELLS if cell != "hyperlstm_ln")]


@pytest.mark.parametrize("cell", CELLS)
def test_forward_final_state_and_all_gradients(cell, monkeypatch):
    for name in ("FEWEST_WEIGHTS", "FEWEST_MULTIPLICATIONS", "FEWEST_STEPS_LAID_OUT"):
        monkeypatch.setattr(recurrence, name, 0)  # these cells are small, but go the way of large ones
    golden, arrays = read_golden(cell)
    check_against_golden(cell, golden, load_released_cell(arrays))


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_one_step_after_another(cell, monkeypatch):
    monkeypatch.setattr(recurrence, "is_transformed", lambda: True)
    golden, arrays = read_golden(cell)
    check_against_golden(cell, golden, load_released_cell(arrays))


@pytest.mark.compiler
@pytest.mark.parametrize("cell", COMPILED)
def test_the_same_compiled(cell):
    golden, arrays = read_golden(cell)
    layer = load_released_cell(arrays)
    layer.compile()
    check_against_golden(cell, golden, layer)


def check_against_golden(cell, golden, layer):
    assert isinstance(layer, HyperLSTM if cell.startswith("hyper") else LSTM)

    x = golden["x"].clone().requires_grad_()
    output, state = layer(x, initial_state(layer, golden["h0"], golden["c0"]))
    (output * golden["loss_weights"]).sum().backward()

    assert_agrees(output, golden["out"], "output")
    assert_agrees(torch.cat(state[0::2], dim=-1)[0], golden["hT"], "final h")
    assert_agrees(torch.cat(state[1::2], dim=-1)[0], golden["cT"], "final c")
    assert_agrees(x.grad, golden["grad:x"], "gradient of x")
    scope = "HyperLSTMCell/" if cell.startswith("hyper") else "LSTMCell/"
    places = released_arrays(isinstance(layer, HyperLSTM), layer.cells[0].layer_norm)
    assert {f"param:{scope}{name}" for name in places} == {name for name in golden if name.startswith("param:")}
    for name, place in places.items():
        gradient = place.view(layer.get_parameter(place.parameter).grad)
        assert_agrees(gradient, golden[f"grad:{scope}{name}"], f"gradient of {name}")


@pytest.mark.parametrize("cell", ["hyperlstm_ln", "lstm"])
@pytest.mark.parametrize("scope", ["", "decoder/rnn/HyperLSTMCell/", "LSTMCell/LSTMCell/"])
def test_any_scope(cell, scope):
    _, arrays = read_golden(cell)
    own_scope = "HyperLSTMCell/" if cell.startswith("hyper") else "LSTMCell/"
    scoped = {scope + name.removeprefix(own_scope): array.numpy() for name, array in arrays.items()}
    expected = load_released_cell(arrays).state_dict()
    loaded = load_released_cell(scoped).state_dict()
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(expected[name], loaded[name]) for name in expected)


def test_the_type_is_that_of_the_arrays():
    _, arrays = read_golden("lstm_ln")
    layer = load_released_cell({name: array.double() for name, array in arrays.items()})
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float64}


@pytest.mark.parametrize("cell", CELLS)
def test_a_missing_array_or_a_wrong_shape_is_named(cell):
    _, arrays = read_golden(cell)
    for name, array in arrays.items():
        rest = {other: array for other, array in arrays.items() if other != name}
        with pytest.raises(UserError, match=f"missing: {name};"):
            load_released_cell(rest)
        wrong = {**arrays, name: torch.cat([array, array], dim=-1)}
        if name.endswith("hyper_ix/zw/super_linear_w"):  # N_z follows from it, so what must fit it is named
            name = name.replace("ix/zw/super_linear_w", "ix/zw/super_linear_b")
        with pytest.raises(UserError, match=f"^{name} has the shape"):
            load_released_cell(wrong)
    matrix = next(name for name in arrays if name.endswith("W_xh"))
    with pytest.raises(UserError, match=f"^{matrix} has the shape"):
        load_released_cell({**arrays, matrix: torch.zeros(4)})


@pytest.mark.parametrize("name", ["global_step", "LSTMCell/W_xh/Adam", "other/bias", "other/ln/ln_gamma"])
def test_an_unknown_array_is_named(name):
    for cell in CELLS:
        _, arrays = read_golden(cell)
        with pytest.raises(UserError, match=name):
            load_released_cell({name: torch.zeros(3), **arrays})


@pytest.mark.parametrize("arrays", [{}, {"conv/kernel": torch.zeros(3, 3)}])
def test_arrays_of_something_else_are_refused(arrays):
    with pytest.raises(UserError):
        load_released_cell(arrays)
