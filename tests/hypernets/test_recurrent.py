"""The recurrent layers: gradients, interface, initialisation, dropout and refusals."""

import io
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from hypernets import UserError
from hypernets.recurrent.dynamic import INITIAL_ROW_SCALE
from hypernets.recurrent.hyperlstm import HyperLSTM, HyperLSTMCell, HyperLSTMState
from hypernets.recurrent.hyperrnn import FORMS, HyperRNN, HyperRNNState
from hypernets.recurrent.layer import detach_state
from hypernets.recurrent.lstm import LSTM, LSTMCell, LSTMState

LAYERS = {
    "lstm": LSTM,
    "layer_norm_lstm": partial(LSTM, layer_norm=True),
    "hyperlstm": partial(HyperLSTM, hyper_size=3, embedding_size=2, layer_norm=False),
    "layer_norm_hyperlstm": partial(HyperLSTM, hyper_size=3, embedding_size=2),
    "hyperrnn_row_scaled": partial(HyperRNN, hyper_size=3, embedding_size=2),
    "hyperrnn_full": partial(HyperRNN, hyper_size=3, embedding_size=2, form="full"),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_lstm = pytest.mark.parametrize("kind", [kind for kind in LAYERS if "lstm" in kind])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_layer(kind, input_size=3, hidden_size=4, **options):
    """A float64 layer away from its initial values, where many gradients and all scales would be alike."""
    layer = LAYERS[kind](input_size, hidden_size, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return layer


def random_state(layer, batch_size):
    return tuple(torch.randn_like(tensor) for tensor in layer.initial_state(batch_size))


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# Gradients


@every_layer
def test_gradients_are_finite_differences_with_dropout_masks_fixed(kind):
    options = {"recurrent_dropout": 0.3} if "lstm" in kind else {}
    if "hyperlstm" in kind:
        options["hyper_recurrent_dropout"] = 0.3
    layer = make_layer(kind, input_size=2, hidden_size=3, **options)
    input = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    state = random_state(layer, 2)

    def run(input, *tensors):
        torch.manual_seed(1)  # the same masks in every call
        parameters = dict(zip(names, tensors[len(state) :], strict=True))
        output, final_state = functional_call(layer, parameters, (input, tensors[: len(state)]))
        return output, *final_state

    tensors = [tensor.detach().requires_grad_() for tensor in (*state, *layer.parameters())]
    assert torch.autograd.gradcheck(run, (input, *tensors))


# The interface of torch.nn.LSTM


@every_layer
def test_two_layers_are_two_stacked_single_layers(kind):
    both = make_layer(kind, num_layers=2)
    first, second = make_layer(kind), make_layer(kind, input_size=4)
    first.cells[0].load_state_dict(both.cells[0].state_dict())
    second.cells[0].load_state_dict(both.cells[1].state_dict())

    input, state = torch.randn(5, 2, 3, dtype=torch.float64), random_state(both, 2)
    output, final_state = both(input, state)
    middle, first_state = first(input, tuple(tensor[:1] for tensor in state))
    expected, second_state = second(middle, tuple(tensor[1:] for tensor in state))
    assert_same(output, expected)
    for tensor, *parts in zip(final_state, first_state, second_state, strict=True):
        assert_same(tensor, torch.cat(parts))


@every_layer
def test_batch_first(kind):
    layer = make_layer(kind)
    other = make_layer(kind, batch_first=True)
    other.load_state_dict(layer.state_dict())
    state = random_state(layer, 2)
    for input in (torch.randn(5, 2, 3, dtype=torch.float64), torch.randint(3, (5, 2))):
        expected, expected_state = layer(input, state)
        output, final_state = other(input.transpose(0, 1), state)
        assert_same(output, expected.transpose(0, 1))
        assert_same(final_state, expected_state)


@every_layer
def test_a_carried_state_continues_the_sequence(kind):
    layer = make_layer(kind, num_layers=2)
    input = torch.randn(7, 2, 3, dtype=torch.float64)
    expected, expected_state = layer(input)
    first, state = layer(input[:3])
    second, state = layer(input[3:], detach_state(state))
    assert_same(torch.cat([first, second]), expected)
    assert_same(state, expected_state)
    assert_same(layer(input, layer.initial_state(2))[0], expected)  # zero is what no state means


@every_layer
def test_token_ids_stand_for_one_hot_vectors(kind):
    layer = make_layer(kind, input_size=6, num_layers=2)
    ids = torch.randint(6, (5, 2))
    dense = F.one_hot(ids, 6).double()
    gradients = []
    for input in (ids, dense):
        output, state = layer(input)
        gradients.append(torch.autograd.grad(output.square().sum(), tuple(layer.parameters())))
    assert_same(layer(ids), layer(dense))
    assert_same(gradients[0], gradients[1])
    assert_same(layer(ids.to(torch.uint8)), layer(ids))


@every_layer
def test_the_state_is_a_named_tuple_that_is_detached_and_saved(kind):
    layer = make_layer(kind, num_layers=2)
    input = torch.randn(4, 2, 3, dtype=torch.float64)
    _, state = layer(input)
    expected_type = {"hyperlstm": HyperLSTMState, "hyperrnn_row_scaled": HyperRNNState, "lstm": LSTMState}
    assert type(state) is expected_type.get(kind, type(state))
    assert all(tensor.requires_grad for tensor in state)
    state = detach_state(state)
    assert type(state) is type(layer.initial_state(2))
    assert not any(tensor.requires_grad for tensor in state)
    assert [list(tensor.shape) for tensor in state] == [[2, 2, units] for units in layer.cells[0].state_sizes]

    file = io.BytesIO()
    torch.save(tuple(state), file)
    file.seek(0)
    restored = torch.load(file, weights_only=True)
    assert_same(layer(input, restored), layer(input, state))


@every_layer
def test_autocast_keeps_the_state_in_float32(kind):
    layer = make_layer(kind, num_layers=2).float()
    input = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(input)
        ids_output, _ = layer(torch.randint(3, (5, 2)))
        output.sum().backward()
    assert {tensor.dtype for tensor in (output, ids_output, *state)} == {torch.float32}
    torch.testing.assert_close(output, layer(input)[0], rtol=0, atol=0.1)
    assert all(parameter.grad is not None for parameter in layer.parameters())


# Against what is known


@pytest.mark.parametrize(("of_layer", "of_input"), [("float32", "float64"), ("float64", "float32")])
def test_autocast_takes_any_type(of_layer, of_input):
    layer = make_layer("lstm").to(getattr(torch, of_layer))
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(5, 2, 3, dtype=getattr(torch, of_input)))[0]
    output.sum().backward()
    assert output.dtype == getattr(torch, of_layer)


def test_hyperrnn_forms_agree_where_the_full_tensor_scales_rows():
    """<W_hz, z> = diag(D z) W for W_hz[u, v, n] = D[u, n] W[u, v]: Eq. 5-6 is then Eq. 7-8."""
    scaled = make_layer("hyperrnn_row_scaled", num_layers=2)
    full = make_layer("hyperrnn_full", num_layers=2)
    with torch.no_grad():
        for full_cell, scaled_cell in zip(full.cells, scaled.cells, strict=True):
            full_cell.load_state_dict(scaled_cell.state_dict(), strict=False)  # hyper cell, embeddings and b_0
            weights, scales = scaled_cell.weights, scaled_cell.weights.row_scales
            w_hz, w_xz, w_bz = scales.weight.squeeze(1)  # each [N_z, H]
            full_cell.weights.weight_hz.copy_(torch.einsum("nu,uv->uvn", w_hz, weights.weight_h))
            full_cell.weights.weight_xz.copy_(torch.einsum("nu,uv->uvn", w_xz, weights.weight_x))
            full_cell.weights.weight_bz.copy_(w_bz.t())
    input, state = torch.randn(6, 2, 3, dtype=torch.float64), random_state(full, 2)
    assert_same(full(input, state), scaled(input, state))
    before = full(input, state)[0]
    with torch.no_grad():
        full.cells[0].weights.weight_hz[0, 0, 0] += 1  # no row scale can do this
    assert (full(input, state)[0] - before).abs().max() > 1e-3


def test_full_hyperrnn_generates_its_weights():
    """Eq. 4-6 with the generated matrices written out, against one step of the layer."""
    layer = make_layer("hyperrnn_full")
    cell, weights = layer.cells[0], layer.cells[0].weights
    x, (h, hyper_h) = torch.randn(1, 2, 3, dtype=torch.float64), random_state(layer, 2)
    output, state = layer(x, (h, hyper_h))

    for b in range(2):
        read = torch.cat([x[0, b], h[0, b]])
        new_hyper_h = torch.tanh(cell.hyper_weight_h @ hyper_h[0, b] + cell.hyper_weight_x @ read + cell.hyper_bias)
        assert_same(state.hyper_h[0, b], new_hyper_h)
        z_h, z_x, z_b = cell.embeddings(new_hyper_h.unsqueeze(0))[0, :, 0]
        w_h, w_x, bias = weights.weight_hz @ z_h, weights.weight_xz @ z_x, weights.weight_bz @ z_b
        assert w_h.shape == (4, 4) and w_x.shape == (4, 3)
        assert_same(output[0, b], torch.tanh(w_h @ h[0, b] + w_x @ x[0, b] + bias + weights.bias))


# Initialisation (A.2.3)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_row_scales_start_at_a_tenth(layer_norm):
    cell = HyperLSTMCell(5, 7, hyper_size=6, embedding_size=3, layer_norm=layer_norm)
    d_h, d_x, b = cell.row_scales(cell.embeddings(torch.randn(2, 6)))
    torch.testing.assert_close(d_h, torch.full((4, 2, 7), 0.1))
    torch.testing.assert_close(d_x, torch.full((4, 2, 7), 0.1))
    assert (b == 0).all()
    assert (cell.bias == 0).all() and (cell.hyper_cell.bias == 0).all()
    z_h, z_x, z_b = cell.embeddings.weight.chunk(3)
    assert (z_h == 0).all() and (z_x == 0).all() and 0 < z_b.abs().max() < 0.05


@pytest.mark.parametrize(("equal_start", "rank"), [(True, 1), (False, 3)])
def test_row_scales_of_all_steps_have_rank_one_unless_the_symmetry_is_broken(equal_start, rank):
    torch.manual_seed(0)
    layer = HyperLSTM(5, 7, hyper_size=6, embedding_size=3, equal_start=equal_start).double()
    cell = layer.cells[0]
    for each in cell.row_scales(cell.embeddings(torch.randn(2, 6).double()))[:2]:
        torch.testing.assert_close(each, torch.full_like(each, 0.1))  # at the start, in both cases
    x, target = torch.randn(20, 4, 5).double(), torch.randn(20, 4, 7).double()
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    for _ in range(20):
        optimizer.zero_grad()
        (layer(x)[0] - target).square().mean().backward()
        optimizer.step()
    hyper_h = torch.randn(50, 6).double()
    for each in cell.row_scales(cell.embeddings(hyper_h))[:2]:
        for gate in each.detach():  # [50, 7]
            assert torch.linalg.matrix_rank(gate, rtol=1e-6) == rank


@pytest.mark.parametrize(
    "cell", [LSTMCell(5, 7), LSTMCell(9, 4, layer_norm=True), HyperLSTMCell(5, 7, hyper_size=6)], ids=str
)
def test_weights_start_orthogonal_for_each_gate(cell):
    matrices = [cell.weight_x, cell.weight_h]
    if isinstance(cell, HyperLSTMCell):
        matrices += [cell.hyper_cell.weight_x, cell.hyper_cell.weight_h]
    for weight in matrices:
        for gate in weight.detach().chunk(4):
            product = gate @ gate.t() if gate.shape[0] <= gate.shape[1] else gate.t() @ gate
            torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)


def test_weights_of_a_hyperrnn_start_orthogonal():
    row_scaled, full = (HyperRNN(5, 7, hyper_size=6, embedding_size=3, form=form).cells[0] for form in FORMS)
    matrices = [row_scaled.weights.weight_h, row_scaled.weights.weight_x]
    matrices += [matrix for cell in (row_scaled, full) for matrix in (cell.hyper_weight_x, cell.hyper_weight_h)]
    for generator in (full.weights.weight_hz, full.weights.weight_xz):
        matrices += (generator / (INITIAL_ROW_SCALE / 3**0.5)).unbind(-1)
    for matrix in matrices:
        product = matrix @ matrix.t() if matrix.shape[0] <= matrix.shape[1] else matrix.t() @ matrix
        torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)


def test_full_hyperrnn_starts_with_weights_of_the_size_of_the_row_scaled():
    sizes = []
    for form in ("full", "row_scaled"):
        weights = HyperRNN(64, 64, embedding_size=4, form=form).cells[0].weights
        h = torch.randn(1, 64)
        products = (F.linear(h, matrix) for matrix in (weights.recurrent_weight(), weights.input_weight()))
        sizes.append(weights(*products, torch.ones(1, 3, 1, 4)).std().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)


# Layer norm, forget bias and dropout


@every_lstm
def test_one_step_is_equation_13(kind):
    """Forget bias after layer norm, c itself carried, dropout on tanh(g) and on nothing else."""
    cell = make_layer(kind, forget_bias=-0.5).cells[0]
    assert not isinstance(cell, HyperLSTMCell) or cell.hyper_cell.forget_bias == -0.5
    gates, c = (torch.randn(2, *sizes, dtype=torch.float64) for sizes in ((4, 4), (4,)))
    for mask in (None, torch.tensor([[0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)):
        state = cell.update(gates, c, mask)
        i, g, f, o = gates.unbind(1)
        if cell.layer_norm:

            def normalise(v):
                return (v - v.mean(1, keepdim=True)) / (v.var(1, correction=0, keepdim=True) + 1e-3).sqrt()

            gammas, betas = cell.gate_gamma.view(4, 4), cell.gate_beta.view(4, 4)
            i, g, f, o = (normalise(gate) * gammas[k] + betas[k] for k, gate in enumerate((i, g, f, o)))
        new = g.tanh() if mask is None else g.tanh() * mask
        new_c = (f - 0.5).sigmoid() * c + i.sigmoid() * new
        read_c = normalise(new_c) * cell.cell_gamma + cell.cell_beta if cell.layer_norm else new_c
        assert_same(state.c, new_c)
        assert_same(state.h, o.sigmoid() * read_c.tanh())
    assert_same(state.c[1], ((f - 0.5).sigmoid() * c)[1])  # all dropped, nothing forgotten


@every_lstm
def test_dropout_is_drawn_anew_in_every_step_and_only_in_training(kind):
    options = {"hyper_recurrent_dropout": 0.5} if "hyperlstm" in kind else {}
    layer = make_layer(kind, recurrent_dropout=0.5, **options)
    plain = make_layer(kind)
    plain.load_state_dict(layer.state_dict())
    input = torch.randn(40, 2, 3, dtype=torch.float64)

    cells = [layer.cells[0]] + ([layer.cells[0].hyper_cell] if options else [])
    for cell in cells:
        mask = cell.dropout_masks(input)[0]
        assert mask.shape == (40, 2, cell.hidden_size)
        assert set(mask.unique().tolist()) == {0.0, 2.0}
        assert 0.3 < (mask == 0).double().mean() < 0.7
        assert len(mask.flatten(1).unique(dim=0)) > 20

    torch.manual_seed(1)
    first, _ = layer(input)
    second, _ = layer(input)
    torch.manual_seed(1)
    assert torch.equal(layer(input)[0], first)
    assert not torch.equal(second, first)
    layer.eval()
    assert all(mask is None for cell in cells for mask in cell.dropout_masks(input))
    assert torch.equal(layer(input)[0], plain(input)[0])


def test_dropout_of_the_hyper_cell_is_its_own():
    layer = HyperLSTM(3, 4, hyper_size=5, recurrent_dropout=0.0, hyper_recurrent_dropout=0.5)
    mask, hyper_mask = layer.cells[0].dropout_masks(torch.randn(6, 2, 3))
    assert mask is None and hyper_mask.shape == (6, 2, 5)
    layer = HyperLSTM(3, 4, hyper_size=5, recurrent_dropout=0.5)
    mask, hyper_mask = layer.cells[0].dropout_masks(torch.randn(6, 2, 3))
    assert mask.shape == (6, 2, 4) and hyper_mask is None


# Refusals


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LSTM(0, 4), "input_size is 0; it must be a whole number of at least 1"),
        (lambda: HyperLSTM(3, 4, hyper_size=0), "hyper_size"),
        (lambda: LSTM(3, 4, recurrent_dropout=1.0), "recurrent_dropout"),
        (lambda: HyperLSTM(3, 4, hyper_recurrent_dropout=-0.1), "hyper_recurrent_dropout"),
        (lambda: HyperRNN(3, 4, form="fast"), "row_scaled, full"),
        (lambda: LSTM(3, 4, layer_norm="no"), "layer_norm is 'no'; it must be true or false"),
        (lambda: HyperLSTM(3, 4, equal_start=0), "equal_start is 0"),
        (lambda: LSTM(3, 4, forget_bias="1"), "forget_bias is '1'"),
    ],
)
def test_bad_options_are_refused(make, word):
    with pytest.raises(UserError, match=word):
        make()


@every_layer
def test_bad_inputs_and_states_are_refused(kind):
    layer = LAYERS[kind](3, 4, num_layers=2)
    input, state = torch.zeros(5, 2, 3), layer.initial_state(2)
    for refused in (
        (torch.zeros(5, 2, 4),),
        (torch.zeros(5, 3),),
        (torch.zeros(0, 2, 3),),
        (torch.zeros(5, 2, 3, dtype=torch.int64),),
        (torch.tensor([[0, 3]]),),
        (torch.tensor([[-1, 2]]),),
        (input, state[:1]),
        (input, layer.initial_state(3)),
        (input.double(),),
        (torch.nn.utils.rnn.pack_padded_sequence(input, [5, 3]),),
        (input, tuple(tensor.half() for tensor in state)),
    ):
        with pytest.raises(UserError):
            layer(*refused)
    layer(input, state)
