"""The character-level language model of sections 4.3 and 4.4: a recurrent layer between one-hot input and softmax."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import UserError
from models.recurrent_model import RecurrentModel, layer_and_dropout


class CharacterModel(RecurrentModel):
    """Predicts each character of a text from those before it: from ids [T, B], the logits [T, B, vocabulary].

    The symbols have no learned embedding: the layer reads one-hot vectors, as the printed parameter counts require.
    They reach it as token ids, except where input dropout scales them.

    The vocabulary is part of the state, so that you can sample from a saved model without its data set.

    Args: those of `RecurrentModel`, with one argument in place of its sizes:
        vocabulary: the characters that the ids 0, 1, ... stand for.
    """

    def __init__(
        self,
        make_recurrent_layer: Callable[[int], nn.Module],
        vocabulary: str,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__(make_recurrent_layer, len(vocabulary), len(vocabulary), input_dropout, output_dropout)
        self.register_buffer("code_points", torch.tensor([ord(character) for character in vocabulary]))

    @property
    def vocabulary(self) -> str:
        """The characters that the ids 0, 1, ... stand for."""
        return _characters(self.code_points)

    def dropped(self, input: Tensor) -> Tensor:
        """Drop symbols of the ids [T, B] in training mode; return one-hot vectors [T, B, vocabulary] then."""
        if not self.training or self.input_dropout == 0:
            return input
        # Dense here: the layer's lookup has no scale for a symbol. In bf16 that is no slower, in float32 somewhat.
        return super().dropped(F.one_hot(input, self.output.out_features))

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
    make_layer, dropout = layer_and_dropout(main_net, hypernet)
    return CharacterModel(make_layer, vocabulary, **dropout)
