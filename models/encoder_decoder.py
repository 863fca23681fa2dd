"""Translation with attention after GNMT (Wu et al. 2016; section 4.6), of LSTM or HyperLSTM cells.

Shape legend
    S, T, B  subwords of the source and of the target, sentences
    E, H     embedding size (H), units of a recurrent layer
    A        units of the attention (H)
    M        size of what the encoder says of a subword (H)
    V        subwords in the vocabulary
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import LSTM, HyperLSTM, UserError
from hypernets.errors import call_with_settings, require_number, require_true_or_false, require_whole, without
from hypernets.recurrent import run_cell

LAYERS = {"none": LSTM, "hyperlstm": HyperLSTM}  # the recurrent layer, by the kind of the hypernetwork


class Memory(NamedTuple):
    """What the encoder says of a batch of sources."""

    values: Tensor  # [B, S, M]
    keys: Tensor  # their projections, which the attention compares with a query, [B, S, A]
    is_text: Tensor  # whether there is a subword, bool [B, S]


class Attention(nn.Module):
    """Additive attention (Bahdanau et al. 2015): the weight of a value is the softmax of v . tanh(W q + U key)."""

    def __init__(self, query_size: int, value_size: int, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, size)
        self.key = nn.Linear(value_size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, queries: Tensor, memory: Memory) -> Tensor:
        """Return the context, a weighted mean of the values, for queries [T, B, H]: [T, B, M]."""
        compared = torch.tanh(self.query(queries).transpose(0, 1).unsqueeze(2) + memory.keys.unsqueeze(1))
        scores = self.score(compared).squeeze(-1)  # [B, T, S]
        weights = scores.float().masked_fill(~memory.is_text.unsqueeze(1), -torch.inf).softmax(-1)
        return torch.bmm(weights.to(memory.values.dtype), memory.values).transpose(0, 1)


class EncoderDecoder(nn.Module):
    """An encoder and a decoder of recurrent layers, which only the attention connects.

    As in GNMT, the first layer of the encoder reads the source in both directions, the context goes into all layers of
    the decoder above the first, and layers are residual: what a layer of H units reads from H units below is added to
    what it writes. In GNMT the query of the attention is the first decoder layer's output at the previous step, and
    the context goes into that layer, too. Here the query is its output at this step, and the first layer reads only
    the embedding, as in later implementations ("gnmt_v2" in TensorFlow's NMT tutorial). So no layer waits for another
    at each step: in training, each reads a whole sequence at once.

    Both languages share the subwords, and so one table of embeddings, if `tied_embeddings`; it is also the matrix of
    the softmax then. Otherwise there are three.

    Args:
        make_layer: makes a recurrent layer from its input size and its units, with the interface of `hypernets.LSTM`.
        vocabulary_size: V.
        padding: the id that stands after the end of a source.
        hidden_size: H, also the embedding size and the size of the attention.
        num_layers: layers of the encoder, and of the decoder.
        dropout: probability of dropping an entry of what each layer and the softmax read.
        tied_embeddings: see above.

    Raises:
        UserError: a size below one, a dropout outside [0, 1), or fewer than two layers.
    """

    def __init__(
        self,
        make_layer: Callable[[int, int], nn.Module],
        vocabulary_size: int,
        padding: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        tied_embeddings: bool,
    ) -> None:
        super().__init__()
        require_whole("main_net.hidden_size", hidden_size)
        require_whole("main_net.num_layers", num_layers, least=2)
        require_number("main_net.dropout", dropout, least=0, below=1)
        require_true_or_false("main_net.tied_embeddings", tied_embeddings)
        self.padding = padding
        self.dropout = dropout
        size = hidden_size

        def table() -> nn.Embedding:
            embedding = nn.Embedding(vocabulary_size, size)
            nn.init.normal_(embedding.weight, std=size**-0.5)  # so that a tied softmax starts with logits of about 1
            return embedding

        self.source_embedding = table()
        self.target_embedding = self.source_embedding if tied_embeddings else table()
        self.forward_layer = make_layer(size, size)
        self.backward_layer = make_layer(size, size)
        inputs = [2 * size] + [size] * (num_layers - 2)
        self.encoder_layers = nn.ModuleList(make_layer(each, size) for each in inputs)
        self.first_decoder_layer = make_layer(size, size)
        self.attention = Attention(size, size, size)
        self.decoder_layers = nn.ModuleList(make_layer(2 * size, size) for _ in range(num_layers - 1))
        self.softmax = nn.Linear(size, vocabulary_size)
        if tied_embeddings:
            self.softmax.weight = self.target_embedding.weight
        nn.init.zeros_(self.softmax.bias)

    def recurrent_layers(self) -> list[nn.Module]:
        """All recurrent layers."""
        return [
            *(self.forward_layer, self.backward_layer, *self.encoder_layers),
            *(self.first_decoder_layer, *self.decoder_layers),
        ]

    def forward(self, source: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits [T, B, V] of the subwords that follow `inputs`, ids [T, B], for sources, ids [S, B]."""
        logits, _ = self.decode(inputs, self.encode(source))
        return logits

    def encode(self, source: Tensor) -> Memory:
        """Read sources, ids [S, B] with padding after their ends."""
        is_text = source != self.padding
        x = self._embedded(self.source_embedding, source)  # [S, B, E]
        # Each source turned round in its place, so that the backward layer reads no padding before the text.
        places = torch.arange(len(source), device=source.device)[:, None]
        turned = torch.where(is_text, is_text.sum(dim=0) - 1 - places, places)[..., None]
        forward, _ = self._run(self.forward_layer, x)
        backward, _ = self._run(self.backward_layer, torch.take_along_dim(x, turned, dim=0))
        x = torch.cat([forward, torch.take_along_dim(backward, turned, dim=0)], dim=-1)  # [S, B, 2 H]
        for layer in self.encoder_layers:
            output, _ = self._run(layer, self._dropped(x))
            x = output + x if output.shape == x.shape else output
        values = x.transpose(0, 1)
        return Memory(values, self.attention.key(values), is_text.t())

    def decode(self, inputs: Tensor, memory: Memory, states: Any = None) -> tuple[Tensor, list[Any]]:
        """Go on by `inputs`, ids [T, B]; return the logits [T, B, V] of the subwords that follow, and the states.

        The states are those of the decoder's layers, each a named tuple of tensors [B, units], before the first input
        (zero if not given) and after the last. In training mode `states` is ignored, and None is returned for each.
        """
        first, *others = [None] * (1 + len(self.decoder_layers)) if states is None else states
        x, first = self._run(self.first_decoder_layer, self._embedded(self.target_embedding, inputs), first)
        context, states = self.attention(x, memory), [first]
        for layer, state in zip(self.decoder_layers, others, strict=True):
            output, state = self._run(layer, self._dropped(torch.cat([x, context], dim=-1)), state)
            x = output + x
            states.append(state)
        return self.softmax(self._dropped(x)), states

    def _run(self, layer: nn.Module, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if self.training:
            return layer(input)[0], None
        # Uncompiled: a compiled layer would compile anew for each batch size, and a translation reads single steps.
        (cell,) = layer.cells
        if state is None:
            state = cell.state_type(*(tensor[0] for tensor in layer.initial_state(input.shape[1])))
        return run_cell(cell, input, state)

    def _embedded(self, embedding: nn.Embedding, ids: Tensor) -> Tensor:
        """Entries of about 1, as in Vaswani et al. (2017): LSTM cells hardly tell apart inputs that are far smaller."""
        return self._dropped(embedding(ids) * embedding.embedding_dim**0.5)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def build(
    main_net: Mapping[str, Any], hypernet: Mapping[str, Any], vocabulary_size: int, padding: int
) -> EncoderDecoder:
    """Build the model from the configuration groups main_net and hypernet; both have a `kind`."""
    if main_net["kind"] != "encoder_decoder":
        raise UserError(f"The main network {main_net['kind']!r} cannot translate; choose main_net=encoder_decoder.")
    if hypernet["kind"] not in LAYERS:
        raise UserError(
            f"The hypernetwork {hypernet['kind']!r} does not fit the main network 'encoder_decoder'; choose "
            f"hypernet={' or hypernet='.join(LAYERS)}."
        )
    own = without(main_net, "kind", "name", "layer_norm")
    cell = without(hypernet, "kind", "name")
    fixed = {"layer_norm": main_net["layer_norm"], "batch_first": False}

    def make_layer(input_size: int, hidden_size: int) -> nn.Module:
        layer = partial(LAYERS[hypernet["kind"]], input_size, hidden_size, **fixed)
        return call_with_settings(layer, "hypernet", cell)

    return call_with_settings(partial(EncoderDecoder, make_layer, vocabulary_size, padding), "main_net", own)
