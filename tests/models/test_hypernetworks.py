"""Hypernetworks as configurations describe them."""

import pytest
import torch
from torch import nn

from hypernets import MLPBody, UserError
from models import wide_resnet
from models.encoders import MeanEncoder, VectorEncoder
from models.hypernetworks import OwnPartBody, generate_weights
from models.sampled_networks import build_sampled
from models.task_networks import build_for_tasks

CHUNKS = {"kind": "chunk_wise", "chunk_size": 10, "body": "mlp", "units": [8], "embedding_size": 3}
OF_TASK = {"condition": "task", "condition_size": 4, "conditional_embedding_size": 2}


def test_each_piece_reads_its_own_part_of_the_condition():
    pieces, size, shared, embedding = 3, 2, 4, 1
    body = OwnPartBody(MLPBody(5), pieces, size)(pieces * size + shared + embedding)
    conditions, embeddings = torch.randn(7, pieces * size + shared), torch.randn(pieces, embedding)
    inputs = torch.cat([conditions[:, None].expand(-1, pieces, -1), embeddings.expand(7, -1, -1)], dim=2)
    for n, features in enumerate(body(inputs).unbind(1)):
        own, rest = conditions[:, n * size : (n + 1) * size], conditions[:, pieces * size :]
        expected = body.body(torch.cat([own, rest, embeddings[n].expand(7, -1)], dim=1))
        torch.testing.assert_close(features, expected)


def test_a_part_of_the_condition_changes_one_chunk_only():
    torch.manual_seed(0)
    network = generate_weights(nn.Linear(9, 3), {**CHUNKS, **OF_TASK})  # 30 weights in three chunks
    assert network.hypernetwork.condition_size == 3 * 2 + 4
    condition = torch.randn(10)
    weights = torch.cat([weight.flatten() for weight in network.weights(condition).values()])
    condition[2:4] += 1
    changed = torch.cat([weight.flatten() for weight in network.weights(condition).values()])
    assert (weights != changed).nonzero().flatten().tolist() == list(range(10, 20))


@pytest.mark.parametrize(
    "settings",
    [
        {"conditional_embedding_size": -1},
        {"condition": "noise"},
        {"condition_size": 0, "condition": "none"},
        {"condition_is_set": True},
        {"kind": "described", "component": "tensors"},
    ],
)
def test_embeddings_of_the_pieces_are_only_of_tasks(settings):
    chunks = CHUNKS if "kind" not in settings else {key: value for key, value in CHUNKS.items() if key != "chunk_size"}
    with pytest.raises(UserError, match="hypernet.conditional_embedding_size is"):
        generate_weights(nn.Linear(9, 3), {**chunks, **OF_TASK, **settings})


@pytest.mark.parametrize("condition", ["task", "noise"])
def test_running_statistics_are_not_shared_by_several_networks(condition):
    hypernet = {**CHUNKS, "name": "chunk_wise", "condition": condition, "condition_size": 4, "chunk_size": 5000}

    def build():
        return wide_resnet.WideResNet(depth=10)

    with pytest.raises(UserError, match=f"stem_norm is batch norm.*condition={condition}.*choose main_net=mlp"):
        if condition == "task":
            build_for_tasks(build, hypernet, tasks=2, beta=0.1)
        else:
            build_sampled(build, hypernet)
    build_for_tasks(build, {"kind": "separate", "name": "separate"}, tasks=2, beta=0.0)  # each has its own


@pytest.mark.parametrize("encoder", [VectorEncoder, MeanEncoder])
def test_codes_of_three_entries_tell_examples_apart(encoder):
    with pytest.raises(UserError, match="hypernet.condition_size is 2.*at least 3"):
        encoder(2, 2)
    torch.manual_seed(0)
    codes = encoder(2, 3)(torch.randn(50, 1, 2))
    assert len(codes.round(decimals=2).unique(dim=0)) > 25  # of two entries there would be two codes
    torch.testing.assert_close(codes.square().mean(dim=-1), torch.ones(50), rtol=0.02, atol=0)


def test_the_code_of_a_set_is_that_of_all_its_points_in_any_order():
    torch.manual_seed(0)
    encoder, points = MeanEncoder(2, 3), torch.randn(4, 5, 2)
    torch.testing.assert_close(encoder(points), encoder(points.flip(1)))
    for index in range(5):
        moved = points.clone()
        moved[:, index] += 1
        assert not torch.allclose(encoder(points), encoder(moved))
