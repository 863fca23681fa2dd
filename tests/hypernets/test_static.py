"""The static hypernetwork against Eq. 1-3, finite differences and its own statistics."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from hypernets import GeneratedConvolutions, LearnedKernels, StaticHypernetwork

# basic channels, N_z, d, kernel shapes: square and not, tiled and not, d and N_z larger and smaller than what they feed
SETTINGS = [
    ((16, 16), 64, 64, [(16, 16, 3, 3), (32, 16, 3, 3), (64, 64, 3, 3)]),
    ((4, 6), 5, 3, [(12, 8, 3, 3), (6, 4, 3, 3)]),
    ((3, 2), 7, 11, [(2, 3, 1, 5), (8, 9, 1, 5)]),
    ((16, 16), 4, 4, [(16, 16, 7, 7)]),
]


def transcription(hypernetwork: StaticHypernetwork, z: torch.Tensor) -> torch.Tensor:
    """Eq. 2 for one embedding, slice by slice, in float64: a basic kernel [N_out, N_in, f, f]."""
    n_out, n_in, height, width = hypernetwork.basic_kernel_shape
    double = {name: p.detach().double() for name, p in hypernetwork.named_parameters()}
    kernel = torch.empty(n_out, n_in, height, width, dtype=torch.float64)
    for i in range(n_in):
        a = double["first_weight"][:, i, :] @ z.detach().double() + double["first_bias"][:, i]
        for o in range(n_out):
            for y in range(height):
                for x in range(width):
                    row = (o * height + y) * width + x
                    kernel[o, i, y, x] = double["second_weight"][row] @ a + double["second_bias"][row]
    return kernel


@pytest.fixture(params=SETTINGS, ids=lambda setting: f"{setting[0]}-{setting[1]}-{setting[2]}")
def hypernetwork(request) -> StaticHypernetwork:
    basic_channels, embedding_size, projection_size, shapes = request.param
    torch.manual_seed(0)
    network = StaticHypernetwork(shapes, basic_channels, embedding_size, projection_size)
    with torch.no_grad():  # so that a wrong use of the biases, which start at zero, shows
        network.first_bias.normal_(std=0.1)
        network.second_bias.normal_(std=0.1)
    return network


def test_kernels_equal_the_equations(hypernetwork):
    index = 0
    for kernel, (c_out, c_in, height, width) in zip(hypernetwork(), hypernetwork.shapes, strict=True):
        n_out, n_in = hypernetwork.basic_kernel_shape[:2]
        assert kernel.shape == (c_out, c_in, height, width)
        for row in range(c_out // n_out):  # Eq. 3: output tiles are the rows, input tiles the columns
            for column in range(c_in // n_in):
                expected = transcription(hypernetwork, hypernetwork.embeddings[index])
                tile = kernel[row * n_out : (row + 1) * n_out, column * n_in : (column + 1) * n_in].double()
                assert (tile - expected).norm() <= 1e-6 * expected.norm()
                index += 1
    assert index == len(hypernetwork.embeddings)


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    network = StaticHypernetwork([(4, 3, 2, 3), (2, 6, 2, 3)], (3, 2), embedding_size=4, projection_size=3).double()
    names = [name for name, _ in network.named_parameters()]

    def kernels(*values):
        return tuple(torch.func.functional_call(network, dict(zip(names, values, strict=True)), ()))

    assert torch.autograd.gradcheck(kernels, [p.detach().requires_grad_() for p in network.parameters()])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_kernels_start_with_the_variance_of_he_in_every_layer(width):
    channels = [(16, 16), (16 * width, 16), (32 * width, 16 * width), (64 * width, 64 * width)]
    shapes = [(c_out, c_in, 3, 3) for c_out, c_in in channels]
    for seed in range(3):
        torch.manual_seed(seed)
        for kernel, (_, c_in, _, _) in zip(StaticHypernetwork(shapes)(), shapes, strict=True):
            assert kernel.square().mean().item() == pytest.approx(2 / (9 * c_in), rel=1e-4)  # exact by construction
            assert abs(kernel.mean().item()) < 0.1 * math.sqrt(2 / (9 * c_in))


def test_start_variance_in_expectation_where_a_projection_widens():
    """d larger than N_out f^2: the second matrix has fewer rows than columns and keeps the variance on average only."""
    torch.manual_seed(0)
    networks = [
        StaticHypernetwork([(4, 4, 1, 1)] * 8, (4, 4), embedding_size=32, projection_size=24) for _ in range(50)
    ]
    variances = torch.stack([torch.stack(network()).square().mean() for network in networks])
    assert variances.mean().item() == pytest.approx(2 / 4, rel=0.1)


def test_signals_keep_their_size_through_generated_layers():
    """What the variance is for: after several layers activations are as large as what went in."""
    torch.manual_seed(0)
    shapes = [(64, 64, 3, 3)] * 8
    x = torch.randn(4, 64, 16, 16)
    y = x
    for kernel in StaticHypernetwork(shapes)():
        y = torch.relu(F.conv2d(F.pad(y, (1, 1, 1, 1), mode="circular"), kernel))
    assert 1 / 3 < (y.square().mean() / x.square().mean()).item() < 3


def test_learned_kernels_are_he_initialised():
    torch.manual_seed(0)
    for kernel in LearnedKernels([(64, 32, 3, 3), (128, 64, 3, 3)])():
        assert kernel.var().item() == pytest.approx(2 / kernel[0].numel(), rel=0.05)


def test_evaluation_generates_once_and_notices_every_change():
    torch.manual_seed(0)
    network = StaticHypernetwork([(16, 16, 3, 3)]).eval()
    with torch.no_grad():
        first = network()
        assert network()[0] is first[0]
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network.embeddings.grad = torch.ones_like(network.embeddings)
        optimizer.step()
        changed = network()
        assert not torch.equal(changed[0], first[0])
        network.load_state_dict(StaticHypernetwork([(16, 16, 3, 3)]).state_dict())
        assert not torch.equal(network()[0], changed[0])
        network.to(torch.float64)
        assert network()[0].dtype == torch.float64
    assert network()[0].requires_grad  # with gradients on, a kept result would cut the graph
    network.train()
    with torch.no_grad():
        assert network()[0] is not network()[0]


def test_autocast_leaves_the_generator_in_full_precision():
    torch.manual_seed(0)
    network = StaticHypernetwork([(16, 16, 3, 3)])
    expected = network()[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network()[0], expected)


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        ([(16, 24, 3, 3)], {}, ["Kernel 0", "24", "do not divide"]),
        ([(16, 16, 3, 3), (16, 16, 1, 1)], {}, ["Kernel 1", "1x1", "one size"]),
        ([], {}, ["at least one"]),
        ([(16, 16, 3, 3)], {"embedding_size": 0}, ["embedding_size", "0"]),
        ([(16, 16, 3, 3)], {"projection_size": "64"}, ["projection_size", "'64'"]),
    ],
)
def test_bad_sizes_are_refused(shapes, settings, words):
    with pytest.raises(ValueError) as raised:
        StaticHypernetwork(shapes, **settings)
    assert all(word in str(raised.value) for word in words)


def test_any_network_with_convolutions():
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(num_classes=10)
    network = GeneratedConvolutions(resnet)
    assert len(network.names) == 16  # all 3x3 convolutions; not the 7x7 stem and the 1x1 shortcuts
    assert sum(p.numel() for p in network.parameters()) == 577_242  # of 11,181,642
    images = torch.randn(2, 3, 32, 32)
    mean_before = resnet.layer1[0].bn1.running_mean.clone()
    network(images).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.hypernetwork.parameters())
    assert not torch.equal(resnet.layer1[0].bn1.running_mean, mean_before)  # batch norm works as ever

    # The same kernels in an untouched network give the same output, and the state survives saving.
    plain = torchvision.models.resnet18(num_classes=10)
    kernels = dict(zip(network.names, network.hypernetwork(), strict=True))
    plain.load_state_dict(network.main_network.state_dict() | {name: k.detach() for name, k in kernels.items()})
    other = GeneratedConvolutions(torchvision.models.resnet18(num_classes=10))
    other.load_state_dict(copy.deepcopy(network.state_dict()))
    with torch.no_grad():
        expected = plain.eval()(images)
        torch.testing.assert_close(network.eval()(images), expected)
        torch.testing.assert_close(other.eval()(images), expected)


def test_choosing_convolutions():
    network = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 32, 3), torch.nn.Conv2d(32, 3, 3))
    chosen = GeneratedConvolutions(copy.deepcopy(network), choose=lambda name, convolution: name == "1")
    assert chosen.names == ["1.weight"]
    assert GeneratedConvolutions(network).names == ["0.weight", "1.weight"]
    with pytest.raises(ValueError, match="No convolution of the network has 5x5 filters"):
        GeneratedConvolutions(torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3)), filter_size=5)
