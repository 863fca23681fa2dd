"""The fast path of the recurrent layers against the loop that defines them."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

from hypernets import compiled_recurrence, step_operations
from hypernets.hyperlstm import HyperLSTM
from hypernets.hyperrnn import HyperRNN
from hypernets.lstm import LSTM
from hypernets.recurrent import detach_state

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "lstm": LSTM,
    "layer_norm_lstm": partial(LSTM, layer_norm=True),
    "hyperlstm": partial(HyperLSTM, hyper_size=6, embedding_size=3, layer_norm=False),
    "layer_norm_hyperlstm": partial(HyperLSTM, hyper_size=6, embedding_size=3),
    "large_embedding": partial(HyperLSTM, hyper_size=6, embedding_size=step_operations.LARGEST_FUSED_SUM + 1),
    "hyperrnn_row_scaled": partial(HyperRNN, hyper_size=6, embedding_size=3),
    "hyperrnn_full": partial(HyperRNN, hyper_size=6, embedding_size=3, form="full"),
}
SHAPES = {"lstm": (1, 1), "hyperlstm": (13, 1), "layer_norm_hyperlstm": (9, 5)}  # T, B; others 7, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine without a compiler: the same path with its graphs as they were traced."""

    def fail(*_, **__):
        raise RuntimeError("No working C++ compiler found\nin any of these places")

    monkeypatch.setattr(compiled_recurrence, "standalone_compile", fail)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The time steps of recurrent layers run uncompiled")
        yield


def make_pair(kind, dtype=torch.float64, **options):
    """The same layer twice, away from its initial values; the second takes the fast path."""
    reference, fast = (LAYERS[kind](5, 7, **options).to(dtype) for _ in range(2))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    fast.load_state_dict(reference.state_dict())
    fast.compile()
    return reference, fast


def run(layer, input, state, seed=1):
    """Output, final state, and the gradients of everything."""
    torch.manual_seed(seed)
    output, final_state = layer(input, state)
    loss = output.square().sum() + sum((tensor**3).sum() for tensor in final_state)
    leaves = [*state, *layer.parameters(), *([input] if input.requires_grad else [])]
    return [output, *final_state, *torch.autograd.grad(loss, leaves)]


def assert_agree(actual, expected, tolerance=1e-9):
    """Each tensor to a fraction of its largest entry."""
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * other.abs().max().clamp_min(1e-30)


def random_state(layer, batch_size):
    return [torch.randn_like(tensor).requires_grad_() for tensor in layer.initial_state(batch_size)]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_forward_and_all_gradients(kind, num_layers, no_compiler, monkeypatch):
    options = {"recurrent_dropout": 0.3} if "rnn" not in kind else {}
    if kind == "layer_norm_hyperlstm":
        options["hyper_recurrent_dropout"] = 0.2
    reference, fast = make_pair(kind, num_layers=num_layers, **options)
    steps, batch_size = SHAPES.get(kind, (7, 3))
    monkeypatch.setattr(compiled_recurrence, "BLOCK_ROWS", 3 * batch_size)  # several blocks, the last one shorter
    state = random_state(reference, batch_size)
    for input in (
        torch.randn(steps, batch_size, 5, dtype=torch.float64, requires_grad=True),
        torch.randint(5, (steps, batch_size)),
    ):
        assert_agree(run(fast, input, state), run(reference, input, state))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_forward_and_all_gradients(kind, dtype):
    reference, fast = make_pair(kind, dtype)
    state = random_state(reference, 3)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The time steps of recurrent layers run uncompiled")
        for input in (torch.randn(9, 3, 5, dtype=dtype, requires_grad=True), torch.randint(5, (9, 3))):
            assert_agree(run(fast, input, state), run(reference, input, state), tolerance)
    fast.eval()
    with torch.no_grad():
        assert_agree([fast(input)[0]], [reference.eval()(input)[0]], tolerance)


def test_compiled_with_bfloat16_products():
    """Compiled code does not check the types of what it is given, and here there are two."""
    reference, fast = make_pair("layer_norm_hyperlstm", torch.float32)
    input, state = torch.randn(9, 3, 5), random_state(reference, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = run(fast, input, state), run(reference, input, state)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).norm() <= 0.05 * other.norm()


def test_without_a_compiler_it_says_so_and_works(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("No working C++ compiler found\nin any of these places")

    monkeypatch.setattr(compiled_recurrence, "standalone_compile", fail)
    reference, fast = make_pair("layer_norm_lstm")
    input = torch.randn(4, 2, 5, dtype=torch.float64)
    with pytest.warns(UserWarning, match="run uncompiled, .* here: No working C.. compiler found$") as caught:
        output, _ = fast(input)
        fast(input)
    assert len(caught) == 1
    assert_agree([output], [reference(input)[0]])


def test_a_carried_state_and_other_batch_sizes(no_compiler):
    reference, fast = make_pair("layer_norm_hyperlstm")
    for batch_size in (2, 4, 2):
        input = torch.randn(6, batch_size, 5, dtype=torch.float64)
        first, state = fast(input[:2])
        second, _ = fast(input[2:], detach_state(state))
        assert_agree([torch.cat([first, second])], [reference(input)[0]])


def test_bfloat16_products_with_float32_state(no_compiler):
    _, layer = make_pair("layer_norm_hyperlstm", torch.float32)
    input = torch.randn(9, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(input)
        output.square().sum().backward()
    assert {tensor.dtype for tensor in (output, *state)} == {torch.float32}
    gradients = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    expected, _ = layer(input)
    expected.square().sum().backward()
    assert 0 < (output - expected).abs().max() < 0.05
    for gradient, parameter in zip(gradients, layer.parameters(), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - parameter.grad).norm() < 0.1 * parameter.grad.norm()


@pytest.mark.parametrize(
    ("layer", "limit"),
    [
        (partial(LSTM, layer_norm=True), 1.2),
        (partial(HyperLSTM, layer_norm=False), 1.0),
        (partial(HyperLSTM, layer_norm=True), 1.2),
    ],
)
def test_memory_kept_for_the_backward_pass(layer, limit, no_compiler):
    """Against torch.nn.LSTM of the same width, the parameters not counted."""
    input = torch.randn(10, 8, 50)

    def kept(layer):
        sizes = {}
        parameters = {parameter.data_ptr() for parameter in layer.parameters()}

        def count(tensor):
            if tensor.untyped_storage().data_ptr() not in parameters:
                sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            layer(input)
        return sum(sizes.values())

    fast = layer(50, 1000)
    fast.compile()
    assert 0 < kept(fast) <= limit * kept(nn.LSTM(50, 1000))


def test_rewritten_functions():
    x = torch.cat([torch.linspace(-30, 30, 300_001), torch.logspace(-8, 0, 10_000)])
    expected = torch.tanh(x.double())
    assert ((step_operations.tanh(x) - expected) / expected.abs().clamp_min(1e-30)).abs().max() < 5e-7
    assert (step_operations.sigmoid(x) - torch.sigmoid(x.double())).abs().max() < 3e-7
    assert step_operations.tanh(x.double()) is NotImplemented
    left, right = torch.randn(4, 3, 5), torch.randn(4, 5, 6)
    torch.testing.assert_close(step_operations.bmm(left, right), torch.bmm(left, right))
