"""Networks with a condition, of modules that know nothing of it: one set of weights, one for each example, several."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import mobilenet_v3_small, resnet18

from hypernets import (
    GenerateChunkWise,
    GenerateComponentWise,
    HyperDNN,
    Hypernetwork,
    MLPBody,
    StaticHypernetwork,
    UserError,
    does_the_condition_matter,
    hyper_dnn,
    tileable_kernels,
)
from hypernets.hyper_dnn import every_parameter

CHUNKS = partial(Hypernetwork, generation=GenerateChunkWise(5000), body=MLPBody(8), condition_size=4)
SMALL_CHUNKS = partial(CHUNKS, generation=GenerateChunkWise(20))


class TiedMLP(nn.Module):
    """An autoencoder of one matrix, which also is a part of a module that it shares."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 6), nn.Linear(6, 6)
        self.decode.weight = self.encode.weight
        self.again = self.encode

    def forward(self, x):
        return self.decode(torch.tanh(self.again(torch.tanh(self.encode(x)))))


class ReturnSample(nn.Module):
    """A diffusion model's call without the object that it returns by default."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep, context):
        return self.unet(sample, timestep, context).sample


def make_unet():
    diffusers = pytest.importorskip("diffusers")
    sizes = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 4}
    kinds = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, cross_attention_dim=6, **sizes, **kinds
    )


def make_encoder():
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)


def make_convnet():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def in_first_layer(name, parameter):
    return name.startswith("layer1")


IMAGES = torch.Size((3, 32, 32))
MAIN_NETWORKS = {  # name -> a function that makes it, shapes of an example, hypernetwork, what is generated
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), [(6,)], SMALL_CHUNKS, every_parameter),
    "tied mlp": (TiedMLP, [(6,)], SMALL_CHUNKS, every_parameter),
    "convnet": (make_convnet, [(1, 8, 8)], SMALL_CHUNKS, every_parameter),
    "encoder": (make_encoder, [(5, 8)], SMALL_CHUNKS, every_parameter),
    "unet": (lambda: ReturnSample(make_unet()), [(1, 8, 8), (), (3, 6)], CHUNKS, every_parameter),
    "resnet18": (resnet18, [IMAGES], CHUNKS, in_first_layer),
    "mobilenet_v3_small": (mobilenet_v3_small, [IMAGES], CHUNKS, lambda name, p: p.dim() == 4),
}
every_main_network = pytest.mark.parametrize("name", MAIN_NETWORKS)


def make(name, training=False, batch=3):
    """A network in float64, inputs of a batch, and conditions."""
    build, shapes, hypernetwork, choose = MAIN_NETWORKS[name]
    torch.manual_seed(0)
    network = HyperDNN(build().double().train(training), hypernetwork, choose)
    inputs = tuple(torch.randn(batch, *shape, dtype=torch.float64) for shape in shapes)
    return network, inputs, torch.randn(batch, 4, dtype=torch.float64)


def plain_call(network, condition, inputs):
    """functional_call by hand on the main network, with the weights of one condition under all their names."""
    weights = network.weights(condition)
    placed = {alias: weights[name] for name, aliases in network.names.items() for alias in aliases}
    return functional_call(network.main_network, placed, inputs)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


@every_main_network
def test_equals_a_loop_of_functional_calls(name):
    network, inputs, conditions = make(name)
    with torch.no_grad():
        assert_close(network(*inputs, condition=conditions[0]), plain_call(network, conditions[0], inputs))
        alone = [
            plain_call(network, condition, tuple(each[index : index + 1] for each in inputs))
            for index, condition in enumerate(conditions)
        ]
        assert_close(network.per_example(inputs, conditions), torch.cat(alone))
        expected = torch.stack([plain_call(network, condition, inputs) for condition in conditions[:2]])
        assert_close(network.ensemble(inputs, conditions[:2]), expected)


def test_large_kernels_one_by_one(monkeypatch):
    network, inputs, conditions = make("convnet")
    expected = network.per_example(inputs, conditions)
    of_loop = torch.stack([network(*inputs, condition=condition) for condition in conditions])
    monkeypatch.setattr("hypernets.hyper_dnn.SMALL_KERNEL", 0)
    monkeypatch.setattr("hypernets.several_networks.vmap", None)
    assert_close(network.per_example(inputs, conditions), expected)
    assert_close(network.ensemble(inputs, conditions), of_loop)


@pytest.mark.parametrize("call", ["per_example", "ensemble"])
@pytest.mark.parametrize(("name", "limit"), [("encoder", "FEW_NUMBERS"), ("unet", "FEW_PIXELS")])
def test_attention_to_many_numbers_one_by_one(name, limit, call, monkeypatch):
    network, inputs, conditions = make(name)
    call = getattr(network, call)
    expected = call(inputs, conditions)
    monkeypatch.setattr(f"hypernets.several_networks.{limit}", 0)
    monkeypatch.setattr("hypernets.several_networks.vmap", None)
    assert_close(call(inputs, conditions), expected)


class LargestResult(TorchDispatchMode):
    """How many numbers the largest result of an operation holds."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


@pytest.mark.parametrize("call", ["per_example", "ensemble"])
def test_attention_does_not_repeat_the_weights(call):
    """vmap would, for each token, in a linear layer whose input is not contiguous."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, nhead=2, dim_feedforward=64, dropout=0.0, batch_first=True)
    network = HyperDNN(layer, CHUNKS)
    generated = sum(shape.numel() for shape in network.shapes.values())
    with torch.no_grad(), LargestResult() as largest:
        getattr(network, call)(torch.randn(3, 16, 64), torch.randn(3, 4))
    assert 3 * generated <= largest.numbers < 2 * 3 * generated


@every_main_network
def test_export_equals_to_the_last_bit(name):
    network, inputs, conditions = make(name)
    build, _, _, _ = MAIN_NETWORKS[name]
    with torch.no_grad():
        expected, plain = network(*inputs, condition=conditions[0]), network.export(conditions[0])
        assert torch.equal(plain(*inputs), expected)
        assert list(plain.state_dict()) == list(build().state_dict())
        assert [name for name, _ in plain.named_parameters()] == [name for name, _ in build().named_parameters()]
        for parameter in plain.parameters():
            parameter.zero_()
        assert torch.equal(network(*inputs, condition=conditions[0]), expected)  # nothing is shared
    with_gradient = network.export(conditions[1])
    assert torch.equal(with_gradient(*inputs), network(*inputs, condition=conditions[1]))


def test_export_of_a_static_hypernetwork():
    torch.manual_seed(0)
    network = HyperDNN(
        resnet18(num_classes=10).eval(), partial(StaticHypernetwork, embedding_size=4), tileable_kernels(3)
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.export()(images), network(images))


@pytest.mark.parametrize("name", ["mlp", "convnet", "encoder"])
@pytest.mark.parametrize("call", ["per_example", "ensemble"])
def test_gradients_and_memory(name, call):
    """As in a loop, all at once or only the weights of two conditions at a time."""
    network, inputs, conditions = make(name, training=True, batch=5)
    weights = sum(shape.numel() for shape in network.shapes.values())
    parameters = list(network.parameters())
    if call == "ensemble":
        expected = torch.stack([plain_call(network, condition, inputs) for condition in conditions])
    else:
        batches = zip(conditions, *(each.split(1) for each in inputs), strict=True)
        expected = torch.cat([plain_call(network, condition, tuple(batch)) for condition, *batch in batches])
    gradients = torch.autograd.grad(expected.square().mean(), parameters)
    most, generate = [], network.weights
    network.weights = lambda conditions: most.append(len(conditions)) or generate(conditions)
    for at_a_time in (5, 2):
        most.clear()
        outputs = getattr(network, call)(inputs, conditions, megabytes=(at_a_time + 0.5) * weights * 8 / 2**20)
        assert_close(outputs, expected)
        for actual, gradient in zip(torch.autograd.grad(outputs.square().mean(), parameters), gradients, strict=True):
            assert_close(actual, gradient)
        assert max(most) == at_a_time
        assert len(most) == {5: 1, 2: 6}[at_a_time]  # three parts, which the backward pass generates again


def test_each_network_has_a_dropout_of_its_own():
    torch.manual_seed(0)
    network = HyperDNN(nn.Sequential(nn.Linear(6, 8), nn.Dropout()), SMALL_CHUNKS)
    same = torch.randn(1, 4).expand(3, 4)
    outputs = network.ensemble(torch.randn(5, 6), same), network.per_example(torch.randn(1, 6).expand(3, 6), same)
    assert all(not torch.equal(output[0], output[1]) for output in outputs)


def test_a_tied_parameter_is_chosen_by_any_of_its_names():
    network = HyperDNN(TiedMLP(), SMALL_CHUNKS, choose=lambda name, _: name == "decode.weight")
    assert network.names == {"encode.weight": ["encode.weight", "decode.weight"]}


def test_outputs_that_are_no_tensors():
    """Such as the weights of an attention that were not asked for."""
    torch.manual_seed(0)
    network = HyperDNN(nn.MultiheadAttention(8, 2, batch_first=True), SMALL_CHUNKS)
    x, conditions, little = torch.randn(3, 5, 8), torch.randn(3, 4), 1.5 * 4 * 288 / 2**20
    for megabytes in (1024, little):
        output, nothing = network.per_example((x, x, x), conditions, megabytes, need_weights=False)
        assert nothing is None
        torch.testing.assert_close(output[1], network(x[1], x[1], x[1], condition=conditions[1], need_weights=False)[0])
        assert network.ensemble((x, x, x), conditions, megabytes, need_weights=False)[1] is None


class MovingMean(nn.Module):
    """Replaces its buffer in training instead of writing to it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        y = self.linear(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(dim=0)
        return y - self.mean


def test_a_buffer_that_is_replaced_stays_as_it_was():
    network, x, conditions = HyperDNN(MovingMean(), SMALL_CHUNKS), torch.randn(3, 6), torch.randn(3, 4)
    for call in (network.per_example, network.ensemble):
        with pytest.raises(UserError, match=r"replaces a buffer, mean of MovingMean, .* eval\(\)"):
            call(x, conditions)
    assert not network.main_network.mean.any()
    assert network.eval().per_example(x, conditions).shape == (3, 4)


class Hides(nn.Sequential):
    """Returns its output in something that PyTorch does not look into, or as a number."""

    def __init__(self, hide):
        super().__init__(nn.Linear(6, 4))
        self.hide = hide

    def forward(self, x):
        return self.hide(super().forward(x))


@pytest.mark.parametrize("hide", [lambda y: SimpleNamespace(logits=y), lambda y: (y, 0.5), lambda y: y.detach().numpy])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_outputs_that_cannot_be_stacked_are_refused(hide, one_by_one, monkeypatch):
    monkeypatch.setattr(hyper_dnn, "attends_to_much", lambda *_: one_by_one)
    network, x, conditions = HyperDNN(Hides(hide), SMALL_CHUNKS), torch.randn(3, 6), torch.randn(3, 4)
    for call in (network.per_example, network.ensemble):
        with pytest.raises(
            UserError, match="returns a (SimpleNamespace|float|builtin_function_or_method), which cannot"
        ):
            call(x, conditions)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("megabytes", [1024, 1.5 * 4 * 28 / 2**20])
def test_a_network_that_changes_its_input_is_refused(megabytes, mode):
    """The networks after the first would see what it did."""
    network, conditions = (
        HyperDNN(nn.Sequential(nn.SiLU(inplace=True), nn.Linear(6, 4)), SMALL_CHUNKS),
        torch.randn(3, 4),
    )
    for call in (network.per_example, network.ensemble):
        with pytest.raises(UserError, match="changes its input in place"), mode():
            call(torch.randn(3, 6), conditions, megabytes)


@torch.inference_mode()
def test_inputs_of_inference_mode_that_are_no_numbers_stay_as_they_are():
    network = HyperDNN(nn.Linear(6, 4), SMALL_CHUNKS)
    x, conditions = torch.full((3, 6), torch.nan), torch.randn(3, 4)
    assert network.per_example(x, conditions).isnan().all()


def test_outputs_without_an_axis_for_the_examples_are_refused():
    network = HyperDNN(nn.Sequential(nn.Linear(6, 4), nn.Flatten(0)), SMALL_CHUNKS)
    for megabytes in (1024, 1.5 * 4 * 28 / 2**20):
        with pytest.raises(UserError, match=r"For one example, .* a tensor of the shape \[4\]; per_example needs"):
            network.per_example(torch.randn(3, 6), torch.randn(3, 4), megabytes)


class KeepsItsLoss(nn.Linear):
    loss = None

    def forward(self, x):
        y = super().forward(x)
        self.loss = y.square().mean()
        return y


def test_a_tensor_that_is_kept_for_later_is_refused():
    network, x, conditions = HyperDNN(KeepsItsLoss(6, 4), SMALL_CHUNKS), torch.randn(3, 6), torch.randn(3, 4)
    for before in (None, torch.ones(())):
        network.main_network.loss = before
        with pytest.raises(UserError, match="keeps a tensor, loss of KeepsItsLoss"):
            network.per_example(x, conditions)
        assert network.main_network.loss is before
    assert network.export(conditions[0]).weight.shape == (4, 6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_weight_that_a_hook_computes_may_be_generated():
    main_network = nn.utils.weight_norm(nn.Linear(6, 4))
    network, x, conditions = HyperDNN(main_network, SMALL_CHUNKS), torch.randn(3, 6), torch.randn(3, 4)
    expected = torch.stack([network(each, condition=c) for each, c in zip(x, conditions, strict=True)])
    torch.testing.assert_close(network.per_example(x, conditions), expected)
    assert torch.equal(network.export(conditions[0])(x[0]), expected[0])


def test_parts_under_a_transform():
    """Where the weights of all conditions at once are too many, the parts cannot be checkpointed."""
    torch.manual_seed(0)
    network, x, conditions = HyperDNN(nn.Linear(6, 8), SMALL_CHUNKS), torch.randn(3, 6), torch.randn(3, 4)

    def loss(conditions, megabytes):
        return network.per_example(x, conditions, megabytes).square().sum()

    gradient = torch.func.grad(loss)
    torch.testing.assert_close(gradient(conditions, 1.5 * 4 * 56 / 2**20), gradient(conditions, 1024))


def test_export_of_a_module_with_computed_weights():
    """A spectral norm of the older kind keeps the weight of its last call, which deepcopy refuses."""
    torch.manual_seed(0)
    main_network = nn.Sequential(nn.Linear(6, 6), nn.utils.spectral_norm(nn.Linear(6, 6)))
    network = HyperDNN(main_network, SMALL_CHUNKS, choose=lambda name, _: name.startswith("0")).eval()
    x, condition = torch.randn(2, 6), torch.randn(4)
    expected = network(x, condition=condition)
    assert torch.equal(network.export(condition)(x), expected)


def test_recurrent_layers_use_their_generated_weights():
    torch.manual_seed(0)
    network, sequence = HyperDNN(nn.LSTM(6, 8), SMALL_CHUNKS), torch.randn(4, 2, 6)
    condition = torch.randn(4)
    output, _ = network(sequence, condition=condition)
    plain = nn.LSTM(6, 8)
    plain.load_state_dict(network.weights(condition))
    torch.testing.assert_close(plain(sequence)[0], output)
    assert torch.equal(network.export(condition)(sequence)[0], output)
    copied = copy.deepcopy(network)  # as an average of weights does
    assert torch.equal(copied(sequence, condition=condition)[0], output)
    other = torch.randn(4)
    assert torch.equal(copied(sequence, condition=other)[0], network(sequence, condition=other)[0])


def test_under_vmap_and_autocast_without_gradients():
    network, x = HyperDNN(nn.Linear(6, 8), SMALL_CHUNKS), torch.randn(3, 6)
    conditions = torch.randn(5, 4)
    with torch.no_grad():
        outputs = torch.func.vmap(lambda condition: network(x, condition=condition))(conditions)
        torch.testing.assert_close(outputs, network.ensemble(x, conditions))
        with torch.autocast("cpu", torch.bfloat16):
            seen = []
            network.main_network.register_forward_hook(lambda module, *_: seen.append(module.weight.requires_grad))
            output = network(x, condition=conditions[0])
            assert seen == [False]  # autocast would keep its cast
            assert torch.equal(output, network.export(conditions[0])(x))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(backend):
    network, inputs, conditions = make("mlp")
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    parameters = list(network.parameters())
    expected, actual = (each(*inputs, condition=conditions[0]) for each in (network, compiled))
    assert_close(actual, expected)
    gradients = [torch.autograd.grad(each.square().sum(), parameters) for each in (expected, actual)]
    for one, other in zip(*gradients, strict=True):
        assert_close(other, one)


def test_a_copy_is_independent():
    network, inputs, conditions = make("tied mlp")
    expected, copied = network(*inputs, condition=conditions[0]), copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(copied(*inputs, condition=conditions[0]), expected)


@pytest.mark.parametrize(
    ("main_network", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), r"1 \(BatchNorm2d\).*eval\(\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.LSTM(4, 4)), r"2 \(LSTM\).*one condition at a time"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.GRUCell(4, 4)), r"2 \(GRUCell\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.RReLU()), r"1 \(RReLU\).*in training mode.*eval\(\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, track_running_stats=True)), r"1 \(InstanceNorm2d\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.utils.spectral_norm(nn.Conv2d(2, 2, 3))), r"1 \(Conv2d\).*training mode"),
    ],
)
def test_modules_that_cannot_have_several_weights_are_refused(main_network, words):
    network = HyperDNN(main_network, SMALL_CHUNKS, choose=lambda name, parameter: name == "1.weight" or name[0] == "0")
    state = copy.deepcopy(network.state_dict())
    for call in (network.per_example, network.ensemble):
        with pytest.raises(UserError, match=words):
            call(torch.randn(2, 1, 8, 8), torch.randn(2, 4))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_parametrised_module_is_refused():
    main_network = nn.Sequential(nn.Linear(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    with pytest.raises(UserError, match=r"1\.weight is parametrised"):
        HyperDNN(main_network, SMALL_CHUNKS)
    HyperDNN(main_network, SMALL_CHUNKS, choose=lambda name, parameter: name.startswith("0"))


class OfOtherNames(nn.Module):
    """A hypernetwork of one's own that returns something else than it should."""

    def __init__(self, parameters, change):
        super().__init__()
        self.weights = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        change(self.weights)

    def forward(self, condition=None):
        return self.weights


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("0.bias"), r"missing or unknown: 0\.bias"),
        (lambda weights: weights.update({"0.bais": torch.zeros(8)}), r"missing or unknown: 0\.bais"),
        (lambda weights: weights.update({"0.bias": torch.zeros(1)}), r"0\.bias .* \[1\], not \[8\]"),
    ],
)
def test_other_names_and_shapes_are_refused_at_construction(change, words):
    with pytest.raises(UserError, match=words):
        HyperDNN(nn.Sequential(nn.Linear(6, 8)), partial(OfOtherNames, change=change))


def test_conditions_that_do_not_fit_are_refused():
    network, (x,), conditions = make("mlp")
    for call in (
        lambda: network(x, condition=conditions),
        lambda: network.export(conditions),
        lambda: network.forward_with(network.weights(conditions), x),
        lambda: network(x),
        lambda: network(x, condition=conditions[0].tolist()),
        lambda: network.ensemble(x, None),
        lambda: network.per_example(x, conditions.tolist()),
        lambda: network.per_example(x, conditions[:2]),
        lambda: network.per_example(x, conditions[0]),
        lambda: network.per_example((x, 3), conditions),
        lambda: network.per_example((x, torch.tensor(3)), conditions),
        lambda: network.hypernetwork.measure_scales(conditions[:0]),
        lambda: network.ensemble(x, conditions[0]),
        lambda: network.per_example(x, conditions[:, :3]),
        lambda: network.ensemble(x, conditions, megabytes=1e-6),
        lambda: network.ensemble(x, conditions, megabytes=0),
        lambda: network.weights(conditions[0], main_network=nn.Linear(6, 8)),
    ):
        with pytest.raises(UserError):
            call()


def test_describe_counts():
    torch.manual_seed(0)
    main_network = nn.Sequential(nn.Linear(30, 20), nn.LayerNorm(20), nn.Linear(20, 10))
    hypernetwork = partial(
        Hypernetwork, generation=GenerateComponentWise((16, 16)), body=MLPBody(8), condition_size=4, embedding_size=5
    )
    network = HyperDNN(main_network, hypernetwork, choose=lambda name, parameter: parameter.dim() == 2)
    pieces, tile = 2 * 2 + 1 * 2, 256
    trained = pieces * 5 + (4 + 5) * 8 + 8 + 8 * tile + tile
    learned = 20 + 2 * 20 + 10
    rows = dict(line.split(maxsplit=1) for line in network.describe().replace("stays learned", "learned").splitlines())
    assert rows["generated"] == "800 weights in 2 tensors"
    assert rows["discarded"] == f"{pieces * tile - 800} weights"
    assert rows["trained"] == f"{trained:,} parameters of the hypernetwork, {learned} of the main network"
    assert rows["learned"] == "0.bias, 1.weight, 1.bias, 2.bias"
    assert rows["generation"].endswith("6 pieces, 1 head")
    assert sum(parameter.numel() for parameter in network.parameters()) == trained + learned


def test_whether_the_condition_matters():
    torch.manual_seed(0)
    network = HyperDNN(nn.Linear(1, 1), partial(CHUNKS, generation=GenerateChunkWise(2)))
    conditions = torch.randn(7, 4)
    seen = []

    def evaluate(conditions):
        seen.append(conditions)
        return len(seen)

    check = does_the_condition_matter(network, evaluate, conditions)
    right, shuffled, mean = seen
    assert torch.equal(right, conditions)
    assert not (shuffled == conditions).all(dim=1).any()  # nothing keeps its own
    assert sorted(shuffled.tolist()) == sorted(conditions.tolist())
    torch.testing.assert_close(mean, conditions.mean(dim=0).expand(7, 4))
    assert check[:3] == (check.right, check.shuffled, check.mean) == (1, 2, 3)
    weights = torch.cat([weight.flatten(1) for weight in network.weights(conditions).values()], dim=1)
    spread = weights.std(dim=0, correction=0).square().mean().sqrt() / weights.square().mean().sqrt()
    assert check.spread == pytest.approx(spread.item(), rel=1e-5)
    same = does_the_condition_matter(network, lambda conditions: 1.0, conditions[:1].expand(3, 4))
    assert same == (1.0, 1.0, 1.0, pytest.approx(0, abs=1e-6))
    with pytest.raises(UserError, match="at least two"):
        does_the_condition_matter(network, evaluate, conditions[:1])
    with pytest.raises(UserError, match="type list; give a tensor"):
        does_the_condition_matter(network, evaluate, conditions.tolist())
    with pytest.raises(UserError, match="type list; give a tensor"):
        network.weights(conditions[0].tolist())
