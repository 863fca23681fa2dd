"""Every strategy and body against plain loops and finite differences, and what the weights start with."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from data.sources import mnist
from hypernets import (
    AttentionBody,
    CNNBody,
    GenerateChunkWise,
    GenerateComponentWise,
    GenerateMultiple,
    GenerateOnce,
    HyperDNN,
    Hypernetwork,
    MLPBody,
    RNNBody,
    StaticHypernetwork,
    UserError,
)
from models.wide_resnet import WideResNet

COMPONENTS = [GenerateComponentWise(component) for component in ("tensors", "channels", (2, 3))]
STRATEGIES = [GenerateOnce(), GenerateMultiple(2), GenerateChunkWise(7), *COMPONENTS]
BODIES = [MLPBody(), MLPBody(16, 8), CNNBody(8, 16), RNNBody(8), AttentionBody(8, heads=2)]
every_strategy = pytest.mark.parametrize("generation", STRATEGIES, ids=str)
every_body = pytest.mark.parametrize("body", BODIES, ids=str)
conditioned_or_not = pytest.mark.parametrize("condition_size", [0, 4])


def make_parameters():
    """Tensors of 0 to 4 dimensions, of which chunks of 7 weights and tiles of 3 by 2 channels divide none."""
    torch.manual_seed(0)
    shapes = {"a.weight": (5, 3), "a.bias": (5,), "b.weight": (4, 5, 1, 2), "b.bias": (4,), "c": (), "d": (3, 3, 2)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def make_hypernetwork(generation, body, condition_size=4, **settings):
    settings = {"embedding_size": 6, **settings}
    return Hypernetwork(make_parameters(), generation, body, condition_size, **settings).double()


def make_condition(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) if shape[-1] else None


def place(generation, tiles, shapes):
    """Put tiles, lists of weights in the order of the pieces, where the strategy says, one weight at a time."""
    if not isinstance(generation, GenerateComponentWise):
        weights = itertools.chain.from_iterable(tiles)
        return {name: torch.stack([next(weights) for _ in range(math.prod(s))]).view(s) for name, s in shapes.items()}
    tiles, placed = iter(tiles), {}
    for name, shape in shapes.items():
        channels = (1, *shape[1:]) if len(shape) > 1 else shape
        of_component = {"tensors": shape, "channels": channels, (2, 3): (3, 2, *shape[2:])[: len(shape)]}
        tile = of_component[generation.component]
        placed[name] = torch.zeros(shape, dtype=torch.float64)
        for corner in itertools.product(*(range(0, size, step) for size, step in zip(shape, tile, strict=True))):
            for offset, weight in zip(itertools.product(*map(range, tile)), next(tiles), strict=True):
                index = tuple(map(sum, zip(corner, offset, strict=True)))
                if all(i < size for i, size in zip(index, shape, strict=True)):
                    placed[name][index] = weight
    assert next(tiles, None) is None
    return placed


@every_strategy
@torch.no_grad()
def test_weights_equal_a_loop_over_the_pieces(generation):
    hypernetwork, condition = make_hypernetwork(generation, MLPBody(8, 8)), make_condition(4)
    shapes = {name: tuple(parameter.shape) for name, parameter in make_parameters().items()}
    heads = dict(zip(hypernetwork.tiles, hypernetwork.heads, strict=True))
    tile_of_piece = [block.tile for block in hypernetwork.layout.blocks for _ in range(block.pieces)]
    tiles = []
    for embedding, tile in zip(hypernetwork.embeddings, tile_of_piece, strict=True):
        features = hypernetwork.body(torch.cat([condition, embedding]))
        if isinstance(generation, GenerateMultiple):
            tiles += [heads[tile].weight[:, k] @ features[k::2] + heads[tile].bias[k] for k in range(2)]
        else:
            tiles.append(heads[tile].weight @ features + heads[tile].bias)
    placed, generated = place(generation, tiles, shapes), hypernetwork(condition)
    assert list(generated) == list(shapes)
    for index, name in enumerate(shapes):
        expected = hypernetwork.base[index] + hypernetwork.scale[index] * placed[name]
        torch.testing.assert_close(generated[name], expected, rtol=1e-9, atol=1e-12)


@every_body
@every_strategy
def test_a_batch_of_conditions_gives_what_each_gives(generation, body):
    hypernetwork, conditions = make_hypernetwork(generation, body), make_condition(2, 3, 4)
    together = hypernetwork(conditions)
    for index in itertools.product(range(2), range(3)):
        for name, weight in hypernetwork(conditions[index]).items():
            torch.testing.assert_close(together[name][index], weight, rtol=1e-9, atol=1e-12)


def check_gradients(hypernetwork, *arguments):
    names = [name for name, parameter in hypernetwork.named_parameters() if parameter.requires_grad]

    def generate(*values):
        return tuple(functional_call(hypernetwork, dict(zip(names, values, strict=True)), arguments).values())

    values = [hypernetwork.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(generate, values, fast_mode=True)


@conditioned_or_not
@every_body
@every_strategy
def test_gradients_equal_finite_differences(generation, body, condition_size):
    check_gradients(make_hypernetwork(generation, body, condition_size), make_condition(2, condition_size))


@pytest.mark.parametrize(
    ("settings", "condition"),
    [
        ({"residual": True}, make_condition(2, 4)),
        ({"residual": True, "learn_base": False}, make_condition(2, 4)),
        ({"described": True}, make_condition(2, 4)),
        ({"condition_is_set": True}, make_condition(2, 5, 4)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_gradients_equal_finite_differences_with(settings, condition):
    check_gradients(make_hypernetwork(GenerateComponentWise((2, 3)), BODIES[-1], **settings), condition)


def test_agrees_with_the_static_hypernetwork():
    """Tiles of 16 by 16 channels and a linear body: W_out W_i is the head, and W_out B_i + B_out its bias."""
    torch.manual_seed(0)
    kernels = {"a": torch.empty(32, 16, 3, 3), "b": torch.empty(48, 32, 3, 3)}
    static = StaticHypernetwork(kernels, embedding_size=8, projection_size=6)
    linear = Hypernetwork(
        {name: torch.randn_like(kernel) for name, kernel in kernels.items()},
        GenerateComponentWise((16, 16)),
        MLPBody(),
        embedding_size=8,
    )
    with torch.no_grad():
        static.first_bias.normal_()
        static.second_bias.normal_()
        linear.embeddings.copy_(static.embeddings)
        weight = torch.einsum("rd,diz->riz", static.second_weight, static.first_weight)  # rows: N_out, f, f
        bias = static.second_weight @ static.first_bias + static.second_bias.unsqueeze(1)  # [rows, N_in]
        for own, folded in ((linear.heads[0].weight, weight), (linear.heads[0].bias, bias)):
            own.copy_(folded.unflatten(0, (16, 3, 3)).movedim(3, 1).reshape(own.shape))
        linear.base.zero_()
        linear.scale.fill_(1)
    for name, kernel in static().items():
        torch.testing.assert_close(linear()[name], kernel, rtol=1e-5, atol=1e-5 * kernel.std().item())


# What the weights start with: of an MLP, a ResNet and a transformer encoder.

START_STRATEGIES = [GenerateOnce(), GenerateMultiple(4), GenerateChunkWise(500), *COMPONENTS[:2]]
START_STRATEGIES.append(GenerateComponentWise((16, 16)))
START_BODIES = [MLPBody(), MLPBody(32, 32), CNNBody(32), RNNBody(32), AttentionBody(32)]


def make_mlp(inputs=64):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 50), nn.ReLU(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 10)
    )


def make_encoder():
    layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)


MAIN_NETWORKS = {"mlp": make_mlp, "resnet": partial(WideResNet, depth=10), "encoder": make_encoder}


@pytest.mark.parametrize("main_network", MAIN_NETWORKS)
@pytest.mark.parametrize("body", START_BODIES, ids=str)
@pytest.mark.parametrize("generation", START_STRATEGIES, ids=str)
@torch.no_grad()
def test_every_tensor_starts_with_the_mean_and_deviation_of_its_own_network(generation, body, main_network):
    torch.manual_seed(0)
    parameters = dict(MAIN_NETWORKS[main_network]().named_parameters())
    hypernetwork = Hypernetwork(parameters, generation, body, condition_size=8)
    drawn = [hypernetwork(torch.randn(8)) for _ in range(24)]
    for name, parameter in parameters.items():
        own = parameter.std(correction=0).item() or 0.01  # a constant starts with a little
        deviations = torch.stack([weights[name] for weights in drawn]) - parameter.mean()
        assert deviations.square().mean().sqrt().item() == pytest.approx(own, rel=0.35), name
        assert abs(deviations.mean().item()) < 4 * own / math.sqrt(min(parameter.numel(), 100)), name


def check_first_loss(generation, body, condition_size, images, labels):
    """Compare the loss with that of the plain network; return the network, with its gradients."""
    torch.manual_seed(0)
    main_network = make_mlp(784)
    plain = F.cross_entropy(main_network(images), labels).item()
    hypernetwork = partial(Hypernetwork, generation=generation, body=body, condition_size=condition_size)
    network = HyperDNN(main_network, hypernetwork)
    condition = torch.randn(condition_size) if condition_size else None
    loss = F.cross_entropy(network(images, condition=condition), labels)
    assert loss.item() == pytest.approx(plain, rel=0.2), (generation, body)
    loss.backward()
    return network


def test_first_loss_on_mnist(real):
    pictures = mnist(real("MNIST"))
    images = torch.from_numpy(pictures.train_images[:256]).float().permute(0, 3, 1, 2).div(255).sub(0.13).div(0.31)
    labels = torch.from_numpy(pictures.train_labels[:256]).long()
    for generation, body, size in itertools.product(START_STRATEGIES, START_BODIES, (0, 4)):
        check_first_loss(generation, body, size, images, labels)


@conditioned_or_not
@pytest.mark.parametrize("body", START_BODIES, ids=str)
@pytest.mark.parametrize("generation", START_STRATEGIES, ids=str)
def test_first_loss_and_gradient(generation, body, condition_size):
    """On images like those of MNIST: the loss of the plain network within 20 %, and a gradient for every parameter."""
    torch.manual_seed(0)
    images = (torch.rand(64, 1, 28, 28) < 0.19).float().sub(0.13).div(0.31)
    network = check_first_loss(generation, body, condition_size, images, torch.randint(10, (64,)))
    one_piece = isinstance(generation, (GenerateOnce, GenerateMultiple))
    rounding = 1e-6 * max(parameter.grad.abs().max() for parameter in network.parameters())
    for name, parameter in network.named_parameters():
        # Attention to a single token is the same whatever its query and key are, up to rounding on some processors.
        if one_piece and "among_pieces.query" in name:
            assert parameter.grad.abs().max() < rounding, name
        elif one_piece and "among_pieces.key_and_value" in name:
            key, value = parameter.grad.chunk(2)
            assert key.abs().max() < rounding < value.abs().max(), name
        else:
            assert parameter.grad.any(), name


def test_scales_are_measured_for_the_conditions_that_are_given():
    torch.manual_seed(0)
    parameters = {"weight": 0.1 * torch.randn(40, 50)}
    hypernetwork, conditions = Hypernetwork(parameters, GenerateOnce(), MLPBody(64), 20), 30 * torch.randn(16, 20)
    deviation = parameters["weight"].std().item()
    assert hypernetwork(conditions)["weight"].std().item() > 5 * deviation
    hypernetwork.measure_scales(conditions)
    assert hypernetwork(conditions)["weight"].std().item() == pytest.approx(deviation, rel=0.05)


def test_chunks_of_features_that_are_positive_do_not_start_alike():
    torch.manual_seed(0)
    weight = Hypernetwork({"weight": torch.randn(200, 100)}, GenerateChunkWise(100), MLPBody(64, 64))()["weight"]
    assert abs(torch.corrcoef(weight).mean().item() - 1 / 200) < 0.01  # the diagonal only


@pytest.mark.parametrize("seed", range(20))
def test_every_head_has_features_at_the_start(seed):
    """Of four features, with ReLU, all are zero for one draw in sixteen."""
    torch.manual_seed(seed)
    heads = partial(Hypernetwork, generation=GenerateMultiple(8), body=MLPBody(32))
    weight = HyperDNN(nn.Linear(64, 20), heads).weights()["weight"]
    assert max(weight.unique(return_counts=True)[1]) < 10


@pytest.mark.parametrize("learn_base", [True, False])
def test_residual_starts_at_a_trained_network(learn_base):
    torch.manual_seed(0)
    x, main_network = torch.randn(100, 8, 8), make_mlp()
    expected = main_network(x)
    bases = [parameter.detach().clone() for parameter in main_network.parameters()]
    settings = {"condition_size": 4, "residual": True, "learn_base": learn_base}
    network = HyperDNN(main_network, partial(Hypernetwork, generation=COMPONENTS[1], body=MLPBody(16), **settings))
    output = network(x, condition=torch.randn(4))
    assert 0 < (output - expected).norm() < 0.3 * expected.norm()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    output.square().sum().backward()
    optimizer.step()
    changed = [not torch.equal(*each) for each in zip(network.hypernetwork.base, bases, strict=True)]
    assert all(changed) if learn_base else not any(changed)


# Main networks of other shapes, conditions that are sets, bodies of one's own.


def make_deep(depth, width):
    return nn.Sequential(nn.Linear(6, width), *(nn.Linear(width, width) for _ in range(depth - 2)), nn.Linear(width, 3))


@pytest.mark.parametrize("body", [MLPBody(64), AttentionBody(32)], ids=str)
def test_a_described_hypernetwork_generates_for_other_depths_and_widths(body):
    torch.manual_seed(0)
    settings = {"generation": GenerateComponentWise((4, 8)), "body": body, "condition_size": 5, "described": True}
    network = HyperDNN(make_deep(3, 40), partial(Hypernetwork, **settings))
    condition = torch.randn(5)
    for name, weight in network.weights(condition, main_network=make_deep(3, 40)).items():
        assert torch.equal(weight, network.weights(condition)[name])
    other, x = make_deep(5, 72), torch.randn(10, 6)
    weights = network.weights(torch.randn(7, 5), main_network=other)
    assert {name: (7, *p.shape) for name, p in other.named_parameters()} == {
        n: tuple(w.shape) for n, w in weights.items()
    }
    for name, parameter in other.named_parameters():
        if parameter.numel() > 100:
            assert weights[name].std().item() == pytest.approx(parameter.std().item(), rel=0.5), name
    functional_call(other, network.weights(condition, main_network=other), (x,)).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_described_hypernetwork_trains_after_inference():
    described = partial(Hypernetwork, generation=COMPONENTS[2], body=MLPBody(8), described=True)
    network, other, x = HyperDNN(make_deep(3, 8), described), make_deep(2, 5), torch.randn(2, 6)
    with torch.inference_mode():
        network.weights(main_network=other)
    functional_call(other, network.weights(main_network=other), (x,)).sum().backward()


def test_a_described_hypernetwork_remembers_few_architectures(monkeypatch):
    monkeypatch.setattr("hypernets.hypernetwork.LAYOUTS_KEPT", 2)
    described = partial(Hypernetwork, generation=COMPONENTS[2], body=MLPBody(8), described=True)
    network = HyperDNN(make_deep(3, 8), described)
    for width in (5, 6, 7, 5):
        network.weights(main_network=make_deep(2, width))
    assert len(network.hypernetwork._other_layouts) == 2


def test_what_a_described_hypernetwork_cannot_generate_is_refused():
    network = HyperDNN(
        make_deep(3, 8), partial(Hypernetwork, generation=COMPONENTS[2], body=MLPBody(8), described=True)
    )
    with pytest.raises(UserError, match=r"0\.weight has the shape \[4, 3, 1, 1\]"):
        network.weights(main_network=nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(UserError, match="1.weight"):  # the weight of a norm is of another kind than a bias
        network.weights(main_network=nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)))
    learned = HyperDNN(make_deep(3, 8), partial(Hypernetwork, generation=COMPONENTS[2], body=MLPBody(8)))
    with pytest.raises(UserError, match="described=True"):
        learned.weights(main_network=make_deep(3, 8))


@every_strategy
def test_a_condition_that_is_a_set(generation):
    hypernetwork = make_hypernetwork(generation, AttentionBody(8, heads=2), condition_is_set=True)
    tokens = make_condition(2, 5, 4)
    together = hypernetwork(tokens)
    for index in range(2):
        one, permuted = hypernetwork(tokens[index]), hypernetwork(tokens[index].flip(0))
        fewer = hypernetwork(tokens[index, :3])
        for name, weight in one.items():
            torch.testing.assert_close(together[name][index], weight, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(permuted[name], weight, rtol=1e-9, atol=1e-12)
            assert not torch.allclose(fewer[name], weight)


@pytest.mark.parametrize(
    "body", [nn.Sequential(nn.Linear(10, 6), nn.Tanh()), lambda size: nn.Sequential(nn.Linear(size, 6), nn.Tanh())]
)
def test_a_body_of_ones_own(body):
    hypernetwork = make_hypernetwork(GenerateChunkWise(7), body)
    assert hypernetwork.heads[0].in_features == 6
    assert hypernetwork(make_condition(2, 4))["d"].shape == (2, 3, 3, 2)


@pytest.mark.parametrize("described", [False, True])
def test_state_is_saved_and_loaded(described):
    first, second = (make_hypernetwork(COMPONENTS[1], MLPBody(8), described=described) for _ in range(2))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.equal(first(make_condition(4))["d"], second(make_condition(4))["d"])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(make_condition(4))["d"], second(make_condition(4))["d"])


def test_autocast_leaves_the_hypernetwork_in_full_precision():
    hypernetwork = make_hypernetwork(COMPONENTS[1], AttentionBody(8)).float()
    condition = make_condition(4).float()
    expected = hypernetwork(condition)["d"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hypernetwork(condition)["d"], expected)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"generation": "once"}, ["'once'", "GenerateOnce()"]),
        ({"generation": GenerateOnce}, ["must be GenerateOnce()"]),
        ({"generation": GenerateChunkWise(1000)}, ["1,000 weights", "larger than all 83 weights"]),
        ({"generation": GenerateMultiple(90)}, ["90 heads", "83 weights"]),
        ({"generation": GenerateMultiple(3)}, ["8 features", "3 heads"]),
        ({"body": MLPBody}, ["MLPBody(units, ...)"]),
        ({"body": nn.Sequential(nn.Linear(10, 4), nn.Flatten(0))}, ["The body returns the shape", "the features as"]),
        ({"condition_size": -1}, ["condition_size", "-1"]),
        ({"embedding_size": 0}, ["embedding_size", "0"]),
        ({"condition_is_set": True}, ["set", "AttentionBody", "MLPBody(8)"]),
        ({"learn_base": False}, ["learn_base=False", "residual=True"]),
        ({"residual": "no"}, ["residual is 'no'", "true or false"]),
        ({"described": True}, ["GenerateComponentWise", "GenerateOnce()"]),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, words):
    choices = {"generation": GenerateOnce(), "body": MLPBody(8), **choices}
    with pytest.raises(UserError) as raised:
        make_hypernetwork(**choices)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GenerateComponentWise("layers"),
        lambda: GenerateComponentWise((16, 0)),
        lambda: GenerateChunkWise(0),
        lambda: GenerateMultiple(True),
        lambda: MLPBody(100, 0),
        lambda: CNNBody(),
        lambda: CNNBody(8, kernel_size=2),
        lambda: RNNBody(1.5),
        lambda: AttentionBody(10, heads=4),
        lambda: Hypernetwork({}, GenerateOnce(), MLPBody()),
    ],
)
def test_unknown_choices_are_refused(make):
    with pytest.raises(UserError):
        make()


@pytest.mark.parametrize(
    ("condition_size", "condition", "words"),
    [(3, None, "needs a condition"), (3, torch.zeros(2, 4), r"\[2, 4\].*\[..., 3\]"), (0, torch.zeros(3), "takes no")],
)
def test_conditions_that_do_not_fit_are_refused(condition_size, condition, words):
    with pytest.raises(UserError, match=words):
        make_hypernetwork(GenerateOnce(), MLPBody(8), condition_size)(condition)
