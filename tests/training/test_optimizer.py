"""Muon, and optimizers side by side."""

import pytest
import torch

from hypernets import GenerateMultiple, Hypernetwork, MLPBody
from training.muon import orthogonalised
from training.optimizer import build_optimizer

SETTINGS = {"kind": "muon", "momentum": 0.9, "betas": [0.9, 0.99], "adam_rate": 0.2}


def parameters(*shapes):
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def set_rates(optimizer, rate):
    """As the training loop does."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)


def descend(optimizer, parameters, rate, steps=4):
    """Minimise a quadratic whose curvature differs from entry to entry."""
    set_rates(optimizer, rate)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((torch.arange(p.numel()).view_as(p) * p.square()).sum() for p in parameters).backward()
        optimizer.step()


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (12, 4), (4, 36)])
def test_orthogonalised_keeps_the_singular_vectors(rows, columns):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    factors = u.T @ orthogonalised(matrix) @ vh.T / max(1, rows / columns) ** 0.5
    assert (factors - torch.diag(factors.diag())).abs().max() < 1e-4
    assert factors.diag().min() > 0.6 and factors.diag().max() < 1.3 and values.max() > 1.5 * values.min()


def test_sgd_has_the_momentum_of_nesterov():
    ours, theirs = parameters((3, 2)), parameters((3, 2))
    descend(build_optimizer(torch.nn.ParameterList(ours), {"kind": "sgd", "momentum": 0.9}), ours, 0.01)
    descend(torch.optim.SGD(theirs, lr=0.01, momentum=0.9, nesterov=True), theirs, 0.01)
    torch.testing.assert_close(ours[0], theirs[0])  # the fused kernel rounds differently


def test_muon_takes_the_steps_of_pytorch_for_matrices():
    shapes = (5, 8), (8, 5)
    ours, theirs = parameters(*shapes), parameters(*shapes)
    descend(build_optimizer(torch.nn.ParameterList(ours), SETTINGS), ours, 0.1)
    descend(torch.optim.Muon(theirs, weight_decay=0, momentum=0.9), theirs, 0.1)
    for one, other, start in zip(ours, theirs, parameters(*shapes), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)  # it rounds to bfloat16
        assert (one - start).abs().max() > 0.2


def test_muon_takes_three_dimensions_as_several_matrices():
    (stacked,) = parameters((5, 3, 8))
    curvature = torch.arange(stacked.numel()).view_as(stacked)
    apart = [torch.nn.Parameter(each.clone()) for each in stacked.detach().unbind(dim=1)]
    for own in (torch.nn.ParameterList([stacked]), torch.nn.ParameterList(apart)):
        optimizer = build_optimizer(own, SETTINGS)
        set_rates(optimizer, 0.1)
        for _ in range(4):
            optimizer.zero_grad()
            together = own[0] if len(own) == 1 else torch.stack(list(own), dim=1)
            (curvature * together.square()).sum().backward()
            optimizer.step()
    torch.testing.assert_close(stacked, torch.stack(apart, dim=1))


def test_muon_takes_a_kernel_as_a_matrix_and_leaves_biases_to_adam():
    kernel, bias = parameters((6, 2, 3, 3), (6, 2))
    layer = torch.nn.ParameterDict({"weight": kernel, "bias": bias}).to(memory_format=torch.channels_last)
    matrix = torch.nn.ParameterList(parameters((6, 18)))
    alone = parameters((6, 18), (6, 2))[1:]
    assert torch.equal(layer["weight"].flatten(1), matrix[0]) and torch.equal(layer["bias"], alone[0])
    descend(build_optimizer(layer, SETTINGS), list(layer.values()), 0.1)
    descend(build_optimizer(matrix, SETTINGS), list(matrix), 0.1)
    descend(torch.optim.Adam(alone, betas=(0.9, 0.99)), alone, 0.1 * SETTINGS["adam_rate"])
    torch.testing.assert_close(layer["weight"].flatten(1), matrix[0])
    torch.testing.assert_close(layer["bias"], alone[0])


def test_muon_takes_each_head_of_a_hypernetwork_as_a_matrix():
    torch.manual_seed(0)
    main_network = {"weight": torch.nn.Parameter(torch.randn(9, 8))}
    hypernetwork = Hypernetwork(main_network, condition_size=4, generation=GenerateMultiple(3), body=MLPBody(12))
    head = hypernetwork.heads[0].weight
    before = head.detach().clone()
    optimizer = build_optimizer(hypernetwork, SETTINGS)
    set_rates(optimizer, 0.1)
    hypernetwork(torch.randn(20, 4))["weight"].square().sum().backward()
    optimizer.step()
    steps = (before - head.detach()) / 0.1
    for step, gradient in zip(steps.unbind(dim=1), head.grad.unbind(dim=1), strict=True):
        assert step.shape == (24, 4)  # a third of the 72 weights from a third of the 12 features
        torch.testing.assert_close(step, orthogonalised(gradient), rtol=0, atol=1e-4)
