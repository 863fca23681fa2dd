"""Hypernetworks as configurations describe them."""

import pytest
import torch
from torch import nn

from hypernets import MLPBody, UserError
from models.hypernetworks import OwnPartBody, generate_weights

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
