"""The coordinate hypernetwork of appendix A.1, and the fully connected network whose weights it generates."""

import math

import pytest
import torch
from torch import nn

from hypernets import GenerateComponentWise, Hypernetwork, MLPBody, UserError
from models.coordinate_hypernetwork import CoordinateHypernetwork
from models.fully_connected import FullyConnected, build
from models.hypernetworks import generate_weights
from models.mnist_convnet import MNISTConvnet

COORDINATES = {"kind": "coordinates", "hidden_sizes": [25, 25]}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_fully_connected_network_is_784_256_10():
    torch.manual_seed(0)
    network = FullyConnected()
    nn.init.normal_(network.hidden_bias)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    rows = [network.hidden_weight[unit // 16, unit % 16].flatten() for unit in range(256)]
    plain.load_state_dict({
        "1.weight": torch.stack(rows),
        "1.bias": network.hidden_bias,
        "3.weight": network.classifier.weight,
        "3.bias": network.classifier.bias,
    })  # fmt: skip
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(network(images), plain(images))


def test_each_weight_is_what_the_small_network_says_of_its_coordinates():
    """One weight at a time: (x, y of the pixel, x, y of the unit) -> weight."""
    torch.manual_seed(0)
    hypernetwork = CoordinateHypernetwork({"weight": torch.randn(3, 2, 5, 4)}, hidden_sizes=(6, 7)).double()
    (weight,) = hypernetwork().values()
    first, second, last = hypernetwork.layers
    for index in ((0, 0, 0, 0), (2, 1, 4, 3), (1, 0, 3, 2)):
        place = torch.tensor([-1 + 2 * i / (size - 1) for i, size in zip(index, (3, 2, 5, 4), strict=True)]).double()
        value = last(second(first(place).relu()).relu())
        torch.testing.assert_close(weight[index], value[0])


def test_801_parameters_learn_and_start_with_the_variance_of_the_main_network():
    torch.manual_seed(0)
    network = generate_weights(FullyConnected(), COORDINATES)
    assert count(network.hypernetwork) == 801 and count(network) == 801 + 256 + 2570
    weight = network.weights()["hidden_weight"]
    assert weight.shape == (16, 16, 28, 28)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 784), rel=0.02)
    assert abs(weight.mean().item()) < 1e-3
    network(torch.randn(8, 1, 28, 28)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: build((3, 32, 32), 10, 256), "square grey images"),
        (lambda: build((1, 28, 28), 10, 250), "hidden_size is 250"),
        (lambda: generate_weights(MNISTConvnet(), COORDINATES), "main_net=fully_connected"),
        (lambda: generate_weights(FullyConnected(), COORDINATES | {"hidden_sizes": []}), r"hidden_sizes is \[\]"),
        (lambda: generate_weights(FullyConnected(), COORDINATES)(None, condition=torch.ones(1)), "no condition"),
        (lambda: CoordinateHypernetwork(dict(nn.Linear(2, 2).named_parameters())), "numbers of axes"),
    ],
)
def test_what_does_not_fit_is_refused(make, word):
    with pytest.raises(UserError, match=word):
        make()


def test_it_is_a_component_wise_hypernetwork_whose_pieces_are_described_by_their_coordinates():
    torch.manual_seed(0)
    kernel = torch.randn(3, 3, 5, 5)
    ours = CoordinateHypernetwork({"weight": kernel}, hidden_sizes=(6, 7))
    # Each weight of the matrix is a piece; in place of a learned embedding it has the coordinates of unit and pixel.
    matrix = {"weight": kernel.flatten(2).flatten(0, 1)}
    general = Hypernetwork(matrix, GenerateComponentWise((1, 1)), MLPBody(6, 7), embedding_size=4)
    coordinates = torch.cartesian_prod(*(torch.linspace(-1, 1, size) for size in kernel.shape))
    general.embeddings = nn.Parameter(coordinates, requires_grad=False)
    first, second, last = ours.layers
    general.body.load_state_dict({
        **{f"0.{name}": value for name, value in first.state_dict().items()},
        **{f"2.{name}": value for name, value in second.state_dict().items()},
    })  # fmt: skip
    general.heads[0].load_state_dict(last.state_dict())
    general.base.zero_()
    general.scale.fill_(1)
    torch.testing.assert_close(general()["weight"].view_as(kernel), ours()["weight"])
    learned = [parameter for parameter in general.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in learned) == count(ours)
