"""Weights for MLPs of many sizes, seen and unseen."""

import pytest
import torch
import torch.nn.functional as F

from models.mlp import MLP
from training.run import read_result
from training.tasks.any_architecture import AnyArchitecture, Slices

SMALL = [
    *("dataset=mnist_any_architecture", "dataset.kind=arrays", "dataset.validation_size=16", "dataset.batch_size=16"),
    *("dataset.depths=[1,2]", "dataset.widths=[4,8]", "dataset.held_out=[[2,4],[3,6]]", "main_net=mlp"),
    *("main_net.hidden_units=[8,8]", "schedule=constant", "schedule.rate=0.01", "steps=6", "validate_every=3"),
    *("logger=none", "device=cpu", "precision=float32"),
]


@pytest.mark.parametrize("hypernet", [["hypernet=described", "hypernet.component=[8,8]", "hypernet.units=[8]"]])
def test_held_out_sizes_are_measured(launcher, hypernet):
    launcher.succeed(*SMALL, *hypernet, f"+dataset.path={launcher.images}", f"runs={launcher.runs}")
    test = read_result(launcher.only_run())["test"]
    assert {"error_1x4", "error_1x8", "error_2x8", "error_2x4", "error_3x6", "error_held_out"} <= set(test)
    assert test["error_held_out"] == pytest.approx((test["error_2x4"] + test["error_3x6"]) / 2)


def test_held_out_sizes_are_never_trained():
    sizes = {"trained": [(1, 4), (1, 8), (2, 8)], "held_out": [(2, 4)]}
    task = AnyArchitecture(Slices(MLP(12, [8, 8], 4)), lambda size: MLP(12, [size[1]] * size[0], 4), sizes)
    network, drawn = task._network, set()
    task._network = lambda size: drawn.add(size) or network(size)
    for _ in range(50):
        task((torch.randn(2, 12), torch.tensor([0, 1])), None)
    assert drawn == set(sizes["trained"])


def test_errors_are_those_of_each_network():
    torch.manual_seed(0)
    largest, sizes = MLP(12, [8, 8], 4), {"trained": [(1, 4), (2, 8)], "held_out": [(2, 4)]}
    task = AnyArchitecture(Slices(largest), lambda size: MLP(12, [size[1]] * size[0], 4), sizes)
    batches = [(torch.randn(50, 12), torch.randint(4, (50,))), (torch.randn(20, 12), torch.randint(4, (20,)))]
    values, losses = task.evaluate(batches), []
    images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    for depth, width in (*sizes["trained"], *sizes["held_out"]):
        small = MLP(12, [width] * depth, 4)
        small.load_state_dict(Slices(largest).weights(None, small))
        logits = small(images)
        losses.append(F.cross_entropy(logits, labels).item())
        wrong = 100 * (logits.argmax(dim=1) != labels).float().mean().item()
        assert values[f"error_{depth}x{width}"] == pytest.approx(wrong)
    assert values["loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert values["error"] == pytest.approx((values["error_1x4"] + values["error_2x8"]) / 2)
    assert values["error_held_out"] == values["error_2x4"]


def test_slices_are_corners_of_the_largest():
    torch.manual_seed(0)
    largest, small = MLP(12, [8, 8, 8], 4), MLP(12, [5], 4)
    small.load_state_dict(Slices(largest).weights(None, small))
    x = torch.randn(3, 12)
    hidden = torch.relu(largest.layers[0](x)[:, :5])
    expected = hidden @ largest.layers[-1].weight[:, :5].T + largest.layers[-1].bias
    torch.testing.assert_close(small(x), expected)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("dataset.held_out=[]", "dataset.held_out is []"),
        ("dataset.held_out=[3]", "dataset.held_out is [3]"),
        ("dataset.depths=[0]", "dataset.depths is 0"),
        ("dataset.depths=3", "dataset.depths is 3"),
        ("dataset.widths=[4,9]", "1 hidden layers of 9 units"),
        ("dataset.depths=[3]", "3 hidden layers of 4 units"),
        ("main_net.dropout=0.5", "main_net.dropout is 0.5"),
    ],
)
def test_sizes_that_cannot_be_are_refused(launcher, assert_one_line, setting, words):
    fitting = [each.replace("[[2,4],[3,6]]", "[[2,4]]") for each in SMALL]
    done = launcher.call(
        *fitting, "hypernet=none", setting, f"+dataset.path={launcher.images}", f"runs={launcher.runs}"
    )
    assert_one_line(done, words)
