"""The output regulariser: its value and its gradient, and a resume in the middle of a task."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypernets import GenerateOnce, HyperDNN, Hypernetwork, MLPBody, OutputRegulariser, UserError


class LinearHypernetwork(nn.Module):
    """Every weight is a linear function of the condition."""

    def __init__(self, parameters, condition_size=3):
        super().__init__()
        self.condition_size = condition_size
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self.dropout = nn.Identity()
        self.matrix = nn.Parameter(torch.randn(condition_size, sum(shape.numel() for shape in self.shapes.values())))

    def forward(self, condition):
        parts = self.dropout(condition @ self.matrix).split([shape.numel() for shape in self.shapes.values()], dim=-1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(-1, shape) for (name, shape), part in named}


def build():
    torch.manual_seed(0)
    network = HyperDNN(nn.Linear(4, 2), LinearHypernetwork)
    embeddings = nn.ParameterList(torch.randn(3) for _ in range(4))
    return nn.ModuleDict({"network": network, "regulariser": OutputRegulariser(network), "embeddings": embeddings})


def test_value_and_gradient_are_those_of_the_equation():
    model = build()
    network, regulariser, earlier = model["network"], model["regulariser"], list(model["embeddings"])[:2]
    assert regulariser(network, []) == 0
    regulariser.remember(network, earlier)
    assert regulariser(network, earlier) == 0
    matrix = network.hypernetwork.matrix
    with torch.no_grad():
        matrix += 0.1 * torch.randn_like(matrix)
    before = regulariser.remembered
    conditions = torch.stack(earlier).detach()
    moved = conditions @ matrix.detach() - before  # [K, P]
    penalty = regulariser(network, earlier)
    penalty.backward()
    torch.testing.assert_close(penalty, moved.square().sum() / 2)
    torch.testing.assert_close(matrix.grad, conditions.T @ moved)  # 2 / K times the outer products
    assert all(embedding.grad is None for embedding in model["embeddings"])
    with pytest.raises(UserError, match="1 conditions are given, but 2 were remembered; call remember"):
        regulariser(network, earlier[:1])
    assert torch.equal(regulariser(network, torch.stack(earlier)), penalty)  # one tensor of conditions will do


def test_remembering_leaves_all_modes_as_they_are():
    network = HyperDNN(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), LinearHypernetwork)
    network.hypernetwork.dropout = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    network.main_network[1].eval()  # frozen
    regulariser, condition = OutputRegulariser(network), torch.randn(3)
    regulariser.remember(network, [condition])
    torch.testing.assert_close(regulariser.remembered[0], condition @ network.hypernetwork.matrix)  # without dropout
    assert network.training and network.hypernetwork.training and not network.main_network[1].training
    assert [dropout.training for dropout in network.hypernetwork.dropout] == [True, False]


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_remembered_in_full_precision(dtype, kept):
    network = HyperDNN(nn.Linear(4, 2).to(dtype), LinearHypernetwork)
    regulariser, resumed = OutputRegulariser(network), OutputRegulariser(network)
    regulariser.remember(network, [torch.randn(3, dtype=dtype)])
    resumed.load_state_dict(regulariser.state_dict())
    assert resumed.remembered.dtype == kept and torch.equal(resumed.remembered, regulariser.remembered)


def train(model, optimizer, steps):
    """Three tasks of five steps each."""
    for step in steps:
        task = step // 5
        earlier = [embedding.detach() for embedding in model["embeddings"][:task]]
        if step % 5 == 0:
            model["regulariser"].remember(model["network"], earlier)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        logits = model["network"](x, condition=model["embeddings"][task])
        loss = F.cross_entropy(logits, (x[:, task] > 0).long()) + model["regulariser"](model["network"], earlier)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def test_resume_in_the_middle_of_a_task_is_exact(assert_same):
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, range(12))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    embeddings = [embedding.clone() for embedding in model["embeddings"]]
    train(model, optimizer, range(12, 15))
    resumed = build()
    optimizer = torch.optim.Adam(resumed.parameters(), lr=0.1)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(resumed, optimizer, range(12, 15))
    assert_same(dict(resumed.state_dict()), dict(model.state_dict()))
    assert [torch.equal(one, other) for one, other in zip(embeddings, model["embeddings"], strict=True)] == [
        *(True, True),  # those of earlier tasks do not move, whatever momentum the optimizer has
        *(False, True),
    ]


@pytest.mark.parametrize("conditions", [torch.randn(3), [torch.randn(2, 3)], [torch.randn(3), torch.randn(4)]])
def test_conditions_of_other_shapes_are_refused(conditions):
    network = HyperDNN(
        nn.Linear(4, 2), partial(Hypernetwork, generation=GenerateOnce(), body=MLPBody(8), condition_size=3)
    )
    with pytest.raises(UserError, match=r"The conditions have the shapes .*; give a list with one"):
        OutputRegulariser(network).remember(network, conditions)
    with pytest.raises(UserError, match="The network is a Linear"):
        OutputRegulariser(nn.Linear(4, 2))
