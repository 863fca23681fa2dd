"""The character-level language model of sections 4.3 and 4.4: a recurrent layer between one-hot input and softmax."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import LSTM, HyperLSTM, HyperRNN, UserError
from hypernets.errors import call_with_settings, require_number

# The recurrent layer for the kinds of main network and hypernetwork.
LAYERS = {("lstm", "none"): LSTM, ("lstm", "hyperlstm"): HyperLSTM, ("rnn", "hyperrnn"): HyperRNN}


class CharacterModel(nn.Module):
    """Predicts each character of a text from those before it.

    The symbols have no learned embedding: the layer reads one-hot vectors, as the printed parameter counts require.
    They reach it as token ids, except where input dropout scales them. Dropout either removes a one-hot vector or keeps
    it, divided by the probability of keeping it.

    The vocabulary is part of the state, so that you can sample from a saved model without its data set.

    Args:
        make_recurrent_layer: makes the layer from its input size; it reads token ids [T, B] as well as vectors
            [T, B, input size], and otherwise has the interface of `torch.nn.LSTM`: `hypernets.LSTM`, or
            `hypernets.HyperLSTM`.
        vocabulary: the characters that the ids 0, 1, ... stand for.
        input_dropout, output_dropout: probability of dropping a symbol of the input, and a unit of the layer's output.
            One minus the keep probabilities that the paper gives.
    """

    def __init__(
        self,
        make_recurrent_layer: Callable[[int], nn.Module],
        vocabulary: str,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, probability in (("input_dropout", input_dropout), ("output_dropout", output_dropout)):
            require_number(name, probability, least=0, below=1)
        self.input_dropout = input_dropout
        self.output_dropout = output_dropout
        self.recurrent_layer = make_recurrent_layer(len(vocabulary))
        self.output = nn.Linear(self.recurrent_layer.hidden_size, len(vocabulary))
        nn.init.orthogonal_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("code_points", torch.tensor([ord(character) for character in vocabulary]))

    @property
    def vocabulary(self) -> str:
        """The characters that the ids 0, 1, ... stand for."""
        return _characters(self.code_points)

    def forward(self, ids: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits [T, B, vocabulary] of the characters that follow the ids [T, B], and the new state.

        The state is that of the recurrent layer, before the first id (zero if not given) and after the last.
        """
        output, state = self.recurrent_layer(self._dropped(ids), state)
        return self.output(F.dropout(output, self.output_dropout, self.training)), state

    def _dropped(self, ids: Tensor) -> Tensor:
        if not self.training or self.input_dropout == 0:
            return ids
        # Dense here: the layer's lookup has no scale for a symbol. In bf16 that is no slower, in float32 somewhat.
        kept = F.dropout(self.output.weight.new_ones(ids.shape), self.input_dropout)
        return F.one_hot(ids, self.output.out_features) * kept[..., None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Two texts may well have vocabularies of one size, and nothing else would show that the ids differ.
        saved = state_dict.get(prefix + "code_points")
        if saved is not None and not torch.equal(saved.cpu(), self.code_points.cpu()):
            raise UserError(
                f"The saved model knows the {len(saved)} characters {_characters(saved)!r}, but this text has the "
                f"{len(self.code_points)} characters {self.vocabulary!r}; use the text that it was trained on."
            )
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _characters(code_points: Tensor) -> str:
    return "".join(map(chr, code_points.tolist()))


def build(main_net: Mapping[str, Any], hypernet: Mapping[str, Any], vocabulary: str) -> CharacterModel:
    """Build the model from the configuration groups main_net and hypernet; both have a `kind`."""
    kinds = main_net["kind"], hypernet["kind"]
    if kinds not in LAYERS:
        fitting = [hyper for main, hyper in LAYERS if main == kinds[0]]
        if not fitting:
            raise UserError(f"The main network {kinds[0]!r} cannot model text; choose main_net=lstm or main_net=rnn.")
        raise UserError(
            f"The hypernetwork {kinds[1]!r} does not fit the main network {kinds[0]!r}; choose "
            f"hypernet={' or hypernet='.join(fitting)}."
        )
    settings = {key: value for key, value in {**main_net, **hypernet}.items() if key not in ("kind", "name")}
    dropout = {key: settings.pop(key) for key in ("input_dropout", "output_dropout") if key in settings}

    def make_layer(input_size: int) -> nn.Module:
        return call_with_settings(partial(LAYERS[kinds], input_size), "main_net", settings)

    return CharacterModel(make_layer, vocabulary, **dropout)
