"""The order in which recurrent layers compute, compiled and not, against the steps one by one that define them."""

import os
import platform
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, prune, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hypernets.recurrent import compiled_step, recurrence, step_compiler, step_operations
from hypernets.recurrent.hyperlstm import HyperLSTM, HyperLSTMCell
from hypernets.recurrent.hyperrnn import HyperRNN
from hypernets.recurrent.layer import RecurrentLayer, detach_state
from hypernets.recurrent.lstm import LSTM, LSTMCell, LSTMState

without_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LAYERS = {
    "lstm": LSTM,
    "layer_norm_lstm": partial(LSTM, layer_norm=True),
    "hyperlstm": partial(HyperLSTM, hyper_size=6, embedding_size=3, layer_norm=False),
    "layer_norm_hyperlstm": partial(HyperLSTM, hyper_size=6, embedding_size=3),
    "large_embedding": partial(HyperLSTM, hyper_size=6, embedding_size=step_operations.LARGEST_FUSED_SUM + 1),
    "hyperrnn_row_scaled": partial(HyperRNN, hyper_size=6, embedding_size=3),
    "hyperrnn_full": partial(HyperRNN, hyper_size=6, embedding_size=3, form="full"),
}
ROOT = Path(__file__).resolve().parents[2]
UNCOMPILED = "The time steps of recurrent layers run uncompiled"
SHAPES = {"lstm": (1, 1), "hyperlstm": (13, 1), "layer_norm_hyperlstm": (9, 5)}  # T, B; others 7, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch):
    monkeypatch.setattr(recurrence, "FEWEST_WEIGHTS", 0)
    monkeypatch.setattr(recurrence, "FEWEST_WEIGHTS_BFLOAT16", 0)


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine without a compiler: the same path with its graphs as they were traced."""

    def fail(*_, **__):
        raise RuntimeError("No working C++ compiler found\nin any of these places")

    monkeypatch.setattr(step_compiler, "compile_fx", fail)
    monkeypatch.setattr(compiled_step, "load_graph", lambda _: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", UNCOMPILED)
        yield
    step_compiler.warn_that_compiling_failed.cache_clear()  # the next test shall see it, too


def make_pair(kind, dtype=torch.float64, **options):
    """The same layer twice, away from its initial values; the first takes its steps one by one."""
    reference, fast = (LAYERS[kind](5, 7, **options).to(dtype) for _ in range(2))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    fast.load_state_dict(reference.state_dict())
    return step_by_step(reference), fast


def step_by_step(layer):
    """Let a layer take its steps one by one."""
    forward = layer.forward

    def looked_into(*arguments):
        with mock.patch.object(recurrence, "is_transformed", return_value=True):
            return forward(*arguments)

    layer.forward = looked_into
    return layer


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


@pytest.mark.parametrize("step", ["as_it_is", "automatic", "compiled"])
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_and_all_gradients(kind, step, no_compiler, monkeypatch):
    options = {"recurrent_dropout": 0.3, "forget_bias": -0.5} if "rnn" not in kind else {}
    if kind == "layer_norm_hyperlstm":
        options["hyper_recurrent_dropout"] = 0.2
    reference, fast = make_pair(kind, num_layers=2, **options)
    if step == "automatic":  # for kinds whose derivative is written out
        fast._step_type = recurrence.Step
    elif step == "compiled":
        fast.compile()
    steps, batch_size = SHAPES.get(kind, (7, 3))
    monkeypatch.setattr(recurrence, "BLOCK_ROWS", 3 * batch_size)  # several blocks, the last one shorter
    monkeypatch.setattr(recurrence, "WIDE_INPUT", 7)  # that of the second layer
    state = random_state(reference, batch_size)
    for input in (
        torch.randn(steps, batch_size, 5, dtype=torch.float64, requires_grad=True),
        torch.randint(5, (steps, batch_size)),
    ):
        assert_agree(run(fast, input, state), run(reference, input, state))


@pytest.mark.parametrize(
    ("device", "kind", "dtype"),
    [
        *(pytest.param("cpu", kind, torch.float64, marks=pytest.mark.slow) for kind in LAYERS),
        *(pytest.param("cpu", kind, torch.float32, marks=pytest.mark.slow) for kind in LAYERS),
        pytest.param("cuda", "layer_norm_hyperlstm", torch.float64, marks=without_cuda),
    ],
)
def test_compiled_forward_and_all_gradients(device, kind, dtype):
    reference, fast = (layer.to(device) for layer in make_pair(kind, dtype))
    fast.compile()
    state = random_state(reference, 3)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4  # processors round differently
    dense = torch.randn(9, 3, 5, dtype=dtype, device=device, requires_grad=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", UNCOMPILED)
        for input in (dense, torch.randint(5, (9, 3), device=device)):
            assert_agree(run(fast, input, state), run(reference, input, state), tolerance)
    fast.eval()
    with torch.no_grad():
        assert_agree([fast(input)[0]], [reference.eval()(input)[0]], tolerance)


def check_bfloat16_products(kind, device, compiled):
    reference, fast = (layer.to(device) for layer in make_pair(kind, torch.float32))
    if compiled:
        fast.compile()
    input, state = torch.randn(9, 3, 5, device=device), random_state(reference, 3)
    with torch.autocast(device, dtype=torch.bfloat16):
        actual, expected = run(fast, input, state), run(reference, input, state)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).norm() <= 0.05 * other.norm()
    assert 0 < (actual[0] - fast(input, state)[0]).abs().max() < 0.05


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "layer_norm_hyperlstm"])
def test_bfloat16_products(kind, compiled, laid_out, no_compiler, monkeypatch):
    if laid_out:
        lay_out_all(monkeypatch)
    check_bfloat16_products(kind, "cpu", compiled)


def lay_out_all(monkeypatch):
    """Let oneDNN multiply the smallest matrices, too."""
    monkeypatch.setattr(recurrence, "FEWEST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(recurrence, "FEWEST_STEPS_LAID_OUT", 0)


def test_float32_products(monkeypatch):
    lay_out_all(monkeypatch)
    reference, fast = make_pair("layer_norm_hyperlstm", torch.float32, num_layers=2)
    input, state = torch.randn(9, 3, 5, requires_grad=True), random_state(reference, 3)
    assert_agree(run(fast, input, state), run(reference, input, state), 2e-5)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=without_cuda)]
)
def test_compiled_with_bfloat16_products(device):
    """Compiled code does not check the types of what it is given, and here there are two."""
    check_bfloat16_products("layer_norm_lstm", device, compiled=True)


def test_without_a_compiler_it_says_so_once_and_works(no_compiler):
    reference, fast = make_pair("layer_norm_lstm")
    fast.compile()
    input = torch.randn(4, 2, 5, dtype=torch.float64)
    with pytest.warns(UserWarning, match=f"{UNCOMPILED}, .* here: No working C.. compiler found$") as caught:
        output, _ = fast(input)
        fast(input)
    assert len(caught) == 1
    assert_agree([output], [reference(input)[0]])


@pytest.mark.parametrize(("kind", "autocast"), [("layer_norm_hyperlstm", True), ("hyperrnn_full", False)])
def test_the_forward_pass_prepares_the_backward_pass(kind, autocast, no_compiler, monkeypatch):
    """The derivative is compiled first, beside the step, for tensors as the backward pass will have them."""
    layer = LAYERS[kind](5, 7)
    layer.compile()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = [layer(torch.randn(9, 3, 5))[0], layer(torch.randint(5, (9, 3)))[0]]
    monkeypatch.setattr(step_compiler, "make_fx", lambda *_, **__: pytest.fail("a graph was traced"))
    for output in outputs:
        output.square().sum().backward()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_carried_state_and_other_batch_sizes(compiled, no_compiler):
    reference, fast = make_pair("layer_norm_hyperlstm")
    if compiled:
        fast.compile()
    for batch_size in (2, 4, 2):
        input = torch.randn(6, batch_size, 5, dtype=torch.float64)
        first, state = fast(input[:2])
        second, _ = fast(input[2:], detach_state(state))
        assert_agree([torch.cat([first, second])], [reference(input)[0]])


@pytest.mark.parametrize(
    ("layer", "inputs", "units", "compiled", "limit"),
    [
        (LAYERS["layer_norm_lstm"], 50, 1000, False, 1.2),
        (partial(HyperLSTM, layer_norm=False), 50, 1000, False, 1.0),
        (HyperLSTM, 50, 1000, False, 1.2),
        (HyperLSTM, 1000, 1000, False, 1.3),
        (HyperLSTM, 256, 256, False, 1.6),
        (HyperLSTM, 256, 256, True, 1.0),
    ],
)
def test_memory_kept_for_the_backward_pass(layer, inputs, units, compiled, limit, no_compiler):
    """Against torch.nn.LSTM of the same width, the parameters not counted."""
    input = torch.randn(10, 8, inputs)

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

    layer = layer(inputs, units)
    if compiled:
        layer.compile()
    assert 0 < kept(layer) <= limit * kept(nn.LSTM(inputs, units))


class CountWritten(TorchDispatchMode):
    """Counts the elements of all tensors that operations return."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        results = function(*arguments, **keywords or {})
        self.elements += sum(tensor.numel() for tensor in tree_leaves(results) if isinstance(tensor, torch.Tensor))
        return results


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "large_embedding"])
def test_linear_in_time(kind, no_compiler):
    """In the gradient of an index, for example, every step would write a whole sequence."""
    compiled = make_pair(kind)[1]
    compiled.compile()
    for layer in (*make_pair(kind), compiled):
        written = []
        for steps in (16, 32):
            input = torch.randn(steps, 2, 5, dtype=torch.float64, requires_grad=True)
            layer(input)[0].sum().backward()  # traces the graphs of a step, after compile()
            with CountWritten() as count:
                layer(input)[0].sum().backward()
            written.append(count.elements)
        assert written[1] < 2.2 * written[0]


@pytest.mark.parametrize("kind", ["layer_norm_lstm", "layer_norm_hyperlstm", "hyperrnn_full"])
def test_second_derivatives(kind):
    """With `create_graph=True` the backward pass differentiates the steps one by one."""
    results = []
    for layer in make_pair(kind, num_layers=2):
        torch.manual_seed(1)
        input, state = torch.randn(4, 2, 5, dtype=torch.float64, requires_grad=True), random_state(layer, 2)
        output, final_state = layer(2 * input, [tensor + input.mean() for tensor in state])  # operands that depend
        leaves = [input, *state, *layer.parameters()]
        loss = output.square().sum() + final_state[0].pow(3).sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)
        results.append([*first, *second])
    assert_agree(*results)


@pytest.mark.parametrize("kind", LAYERS)
def test_several_gradients_at_once(kind):
    layer = make_pair(kind)[1]
    input = torch.randn(5, 2, layer.input_size, dtype=torch.float64, requires_grad=True)
    outputs = layer(input)[0][-1, 0, :3]
    (together,) = torch.autograd.grad(outputs, input, torch.eye(3).double(), is_grads_batched=True, retain_graph=True)
    for output, gradient in zip(outputs, together, strict=True):
        torch.testing.assert_close(gradient, torch.autograd.grad(output, input, retain_graph=True)[0])
    assert not together.requires_grad


def test_transforms_of_functions():
    """`torch.func`, forward-mode differentiation and `torch.export` look into every step."""
    reference, fast = make_pair("layer_norm_hyperlstm")
    inputs = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    tangent = torch.randn(4, 2, 5, dtype=torch.float64)
    mapped = torch.func.vmap(lambda input: fast(input)[0])(inputs)
    assert_agree(mapped, [reference(input)[0] for input in inputs])

    def loss(layer):
        return lambda input: layer(input)[0].square().sum()

    expected = torch.autograd.functional.jvp(loss(reference), inputs[0], tangent)[1]
    assert_agree([torch.func.jvp(loss(fast), (inputs[0],), (tangent,))[1]], [expected])
    assert_agree([(torch.func.grad(loss(fast))(inputs[0]) * tangent).sum()], [expected])
    with torch.autograd.forward_ad.dual_level():
        value = loss(fast)(torch.autograd.forward_ad.make_dual(inputs[0], tangent))
        assert_agree([torch.autograd.forward_ad.unpack_dual(value).tangent], [expected])
    exported = torch.export.export(fast, (inputs[0],)).module()
    assert_agree([exported(inputs[0])[0]], [reference(inputs[0])[0]])


def test_pruned_and_parametrised_weights():
    reference, fast = make_pair("layer_norm_hyperlstm")
    for layer in (reference, fast):
        for module, name in ((layer.cells[0], "bias"), (layer.cells[0].hyper_cell, "weight_h")):
            prune.l1_unstructured(module, name, 0.3)
    input, state = torch.randn(4, 2, 5, dtype=torch.float64), random_state(reference, 2)
    assert_agree(run(fast, input, state), run(reference, input, state))
    reference, fast = make_pair("layer_norm_hyperlstm")
    for layer in (reference, fast):
        torch.manual_seed(2)
        parametrizations.weight_norm(layer.cells[0].hyper_cell, "weight_h")
        parametrizations.weight_norm(layer.cells[0], "weight_h")
    assert_agree(run(fast, input, state), run(reference, input, state))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_an_older_hook_normalises_are_those_of_the_last_update():
    layer, input = HyperLSTM(5, 7, hyper_size=6, embedding_size=3), torch.ones(4, 2, 5)
    nn.utils.weight_norm(layer.cells[0], "weight_h")
    with torch.no_grad():
        before = layer(input)[0]
        layer.cells[0].weight_h_g.mul_(10)
        after = layer(input)[0]
        assert not torch.allclose(before, after) and torch.equal(layer(input)[0], after)
    for _ in range(2):
        layer(input)[0].sum().backward()


def test_pruned_matrices_are_those_of_the_last_update():
    layers = make_pair("layer_norm_hyperlstm")
    outputs = []
    for layer in layers:
        prune.random_unstructured(layer.cells[0], "weight_h", 0.3)
        layer.cells[0].weight_h_mask.copy_(layers[0].cells[0].weight_h_mask)
        pruned = layer.cells[0].weight_h_orig
        input = torch.ones(4, 2, 5, dtype=torch.float64)
        before = layer(input)[0]
        with torch.no_grad():
            pruned.add_(1)
            layer(input)
        after = layer(input)[0]
        assert not torch.allclose(before, after)
        outputs += [after, torch.autograd.grad(after.sum(), pruned)[0]]
    assert_agree(outputs[:2], outputs[2:])


@pytest.mark.parametrize("compiled", [False, True])
def test_parameters_that_share_one_storage(compiled, no_compiler):
    reference, fast = make_pair("layer_norm_hyperlstm")
    flat = parameters_to_vector(fast.parameters()).detach()
    vector_to_parameters(flat, fast.parameters())  # views of one vector, as in some optimizers
    if compiled:
        fast.compile()
    input, state = torch.randn(4, 2, 5, dtype=torch.float64), random_state(reference, 2)
    assert_agree(run(fast, input, state), run(reference, input, state))


def test_token_ids_under_a_transform():
    layer = HyperLSTM(6, 7, hyper_size=5, embedding_size=3)
    ids = torch.randint(6, (3, 4, 2))
    batched = torch.func.vmap(lambda ids: layer(ids)[0])(ids)
    assert_agree([batched], [torch.stack([layer(each)[0] for each in ids])], 1e-5)


def test_narrow_layers_without_a_written_derivative_take_their_steps_one_by_one(monkeypatch):
    monkeypatch.undo()
    one_by_one, fast = "StackBackward0", "RecurrenceBackward"
    for layer, name in ((HyperRNN(3, 50), one_by_one), (HyperRNN(3, 1100), fast), (HyperLSTM(3, 50), fast)):
        assert layer(torch.randn(2, 2, 3))[0].grad_fn.name() == name


class Saturated(HyperLSTMCell):
    def update(self, gates, c, mask, gate_axis=1):
        return super().update(gates.clamp(-1, 1), c, mask, gate_axis)


def add_hook(layer):
    layer.cells[0].row_scales.register_forward_hook(lambda module, inputs, scales: tuple(2 * each for each in scales))


def derive(layer):
    layer.cells[0].__class__ = Saturated


def replace(layer):
    forward = layer.cells[0].hyper_cell.forward
    layer.cells[0].hyper_cell.forward = lambda *arguments: LSTMState(*(each / 2 for each in forward(*arguments)))


@pytest.mark.parametrize("change", [add_hook, derive, replace])
def test_a_written_derivative_is_only_for_what_it_was_written_for(change):
    reference, fast = make_pair("layer_norm_hyperlstm")
    input, state = torch.randn(7, 3, 5, dtype=torch.float64), random_state(reference, 3)
    before = fast(input, state)[0]
    for layer in reference, fast:
        change(layer)
    results = run(fast, input, state)
    assert not torch.allclose(results[0], before)
    assert_agree(results, run(reference, input, state))


class Recorded(NamedTuple):
    h: torch.Tensor
    last_gates: torch.Tensor
    steps: torch.Tensor


class RecordingCell(LSTMCell):
    """A cell of a user's own: it keeps the last gates, counts steps, reads a buffer and ignores one product."""

    state_type = Recorded

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.state_sizes = (hidden_size, 4 * hidden_size, 1)
        self.ignored = nn.Parameter(torch.ones(3, hidden_size))
        self.register_buffer("scale", torch.tensor(0.5))

    def recurrent_weights(self):
        return self.weight_h, self.ignored

    def forward(self, h_products, x_products, state, masks):
        gates = torch.tanh(h_products[0] + x_products[0] + self.bias)
        steps = state[2].detach() + 1
        return Recorded(self.scale * gates.unflatten(1, (4, -1)).sum(1), gates, steps)


class Recording(RecurrentLayer):
    cell_type = RecordingCell


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cell_with_fields_that_do_not_depend_on_each_other(compiled, monkeypatch):
    layer = Recording(5, 7, 1, False)
    input = torch.randn(4, 2, 5, requires_grad=True)

    def results():
        output, state = layer(input)
        loss = output.square().sum() + state.last_gates.sum()
        wanted = [input, layer.cells[0].weight_h, layer.cells[0].bias]
        return [output, *state, *torch.autograd.grad(loss, wanted)]

    with monkeypatch.context() as patch:
        patch.setattr(recurrence, "FEWEST_WEIGHTS", 2**40)  # step by step
        expected = results()
    if compiled:
        layer.compile()
    assert_agree(results(), expected, 1e-5)


def test_under_torch_compile_the_time_steps_stay_outside_of_the_graphs():
    reference, fast = make_pair("layer_norm_hyperlstm")
    input = torch.randn(30, 2, 5, dtype=torch.float64)
    nodes = []

    def count(graph, _):
        nodes.append(len(graph.graph.nodes))
        return graph

    def doubled(input):
        return 2 * fast(2 * input)[0]

    output = torch.compile(doubled, backend=count)(input)
    assert_agree([output], [2 * reference(2 * input)[0]])
    wanted = [
        torch.autograd.grad(each.sum(), layer.cells[0].weight_h)
        for each, layer in ((output, fast), (2 * reference(2 * input)[0], reference))
    ]
    assert_agree(*wanted)
    assert 0 < sum(nodes) < 30


def test_inference_mode():
    reference, fast = make_pair("layer_norm_hyperlstm")
    input = torch.randn(4, 2, 5, dtype=torch.float64)
    with torch.inference_mode():
        assert_agree([fast(input)[0]], [reference(input)[0]])


def test_a_new_user_meets_no_compiler_no_warning_and_no_file(tmp_path):
    program = """
import sys, torch
from hypernets import HyperLSTM
layer = HyperLSTM(5, 500)
layer(torch.randn(10, 2, 5))[0].sum().backward()
assert not {"torch._dynamo", "torch._inductor"} & set(sys.modules)
"""
    command = [sys.executable, "-W", "error", "-B", "-c", program]
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert not list(tmp_path.rglob("*"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide otherwise")
def test_memory_of_a_step_is_kept_for_the_next():
    """Blocks come from the heap, where they are used again, and not each from the system."""
    program = """
import torch
from hypernets import LSTM

def comes_from_the_heap(megabytes):
    block = torch.empty(megabytes * 2**20, dtype=torch.uint8).data_ptr()
    heap, = (line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
    first, last = (int(end, 16) for end in heap.split("-"))
    return first <= block < last

assert not comes_from_the_heap(20)
LSTM(2, 2)(torch.zeros(1, 1, 2))
assert comes_from_the_heap(30)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rewritten_functions():
    x = torch.cat([torch.linspace(-30, 30, 300_001), torch.logspace(-8, 0, 10_000)])
    expected = torch.tanh(x.double())
    assert ((step_operations.tanh(x) - expected) / expected.abs().clamp_min(1e-30)).abs().max() < 5e-7
    assert (step_operations.sigmoid(x) - torch.sigmoid(x.double())).abs().max() < 3e-7
    assert step_operations.tanh(x.double()) is NotImplemented
    left, right = torch.randn(4, 3, 5), torch.randn(4, 5, 6)
    torch.testing.assert_close(step_operations.bmm(left, right), torch.bmm(left, right))
