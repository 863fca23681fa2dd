"""What the models of sequences share: a recurrent layer, dropout before and after it, and a linear output."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hypernets import LSTM, HyperLSTM, HyperRNN, UserError
from hypernets.errors import call_with_settings, require_known, require_number, without

# The recurrent layer for the kinds of main network and hypernetwork.
LAYERS = {
    ("lstm", "none"): LSTM,
    ("lstm", "hyperlstm"): HyperLSTM,
    ("rnn", "hyperrnn"): HyperRNN,
}


class RecurrentModel(nn.Module):
    """A recurrent layer whose topmost h a linear layer reads.

    Dropout of the input removes the whole input of a time step or keeps it, divided by the probability of keeping it.

    Args:
        make_recurrent_layer: makes the layer from its input size; one of `hypernets`, such as `hypernets.LSTM` or
            `hypernets.HyperLSTM`. Where the input is token ids, it reads those as well as vectors.
        input_size, output_size: I and O; where the input is token ids, I is the size of the vocabulary.
        input_dropout, output_dropout: probability of dropping the input of a time step, and a unit of the layer's
            output. One minus the keep probabilities that the paper gives.
    """

    def __init__(
        self,
        make_recurrent_layer: Callable[[int], nn.Module],
        input_size: int,
        output_size: int,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, probability in (("input_dropout", input_dropout), ("output_dropout", output_dropout)):
            require_number(name, probability, least=0, below=1)
        self.input_dropout = input_dropout
        self.output_dropout = output_dropout
        self.recurrent_layer = make_recurrent_layer(input_size)
        self.output = nn.Linear(self.recurrent_layer.hidden_size, output_size)
        nn.init.orthogonal_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, input: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the outputs [T, B, O] for an input [T, B, I], or ids [T, B], and the new state.

        The state is that of the recurrent layer, before the first time step (zero if not given) and after the last.
        """
        output, state = self.recurrent_layer(self.dropped(input), state)
        return self.read_out(F.dropout(output, self.output_dropout, self.training)), state

    def read_out(self, output: Tensor) -> Tensor:
        """Turn the output of the recurrent layer [..., H] into that of the model [..., O]."""
        return self.output(output)

    def dropped(self, input: Tensor) -> Tensor:
        """Drop the inputs of some time steps in training mode; each element of the first two axes is kept or not."""
        if not self.training or self.input_dropout == 0:
            return input
        return input * F.dropout(self.output.weight.new_ones(input.shape[:2]), self.input_dropout)[..., None]


def layer_and_dropout(
    main_net: Mapping[str, Any], hypernet: Mapping[str, Any]
) -> tuple[Callable[[int], nn.Module], dict[str, float]]:
    """Read the configuration groups main_net and hypernet; both have a `kind`.

    Returns:
        The first argument of a `RecurrentModel`, and those of its dropout by name.
    """
    kinds = main_net["kind"], hypernet["kind"]
    if kinds not in LAYERS:
        fitting = [hyper for main, hyper in LAYERS if main == kinds[0]]
        if not fitting:
            raise UserError(
                f"The main network {kinds[0]!r} does not read sequences; choose main_net=lstm or main_net=rnn."
            )
        raise UserError(
            f"The hypernetwork {kinds[1]!r} does not fit the main network {kinds[0]!r}; choose "
            f"hypernet={' or hypernet='.join(fitting)}."
        )
    own, of_hypernet = (without(group, "kind", "name") for group in (main_net, hypernet))
    dropout = {key: own.pop(key) for key in ("input_dropout", "output_dropout") if key in own}
    known = [name for name in signature(LAYERS[kinds]).parameters if name not in ("input_size", "batch_first")]
    require_known("main_net", own, known)
    require_known("hypernet", of_hypernet, [name for name in known if name not in own])

    def make_layer(input_size: int) -> nn.Module:
        return call_with_settings(partial(LAYERS[kinds], input_size), "main_net", own | of_hypernet)

    return make_layer, dropout
