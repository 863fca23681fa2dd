"""LSTM and Layer Norm LSTM as the paper uses them. The shape legend is in layer.py."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets.errors import require_number, require_true_or_false, require_whole
from hypernets.recurrent.layer import Masks, RecurrentLayer, Tensors

LAYER_NORM_EPSILON = 1e-3  # of the authors' released cell


class LSTMState(NamedTuple):
    """State of an LSTM, as in torch: h and c, each [num_layers, B, H] ([B, H] in a cell)."""

    h: Tensor
    c: Tensor


class LSTMCell(nn.Module):
    """One layer of an LSTM, with or without layer norm (LN); gates i, g, f, o, in this order along 4 H.

        y = LN(W_h^y h_{t-1} + W_x^y x_t + b^y)                    for each gate y
        c_t = sigma(f) * c_{t-1} + sigma(i) * Dropout(tanh(g))     Eq. 13
        h_t = sigma(o) * tanh(LN(c_t))                             Eq. 13

    Parameters: weight_x [4H, I], weight_h [4H, H], bias [4H]; with layer norm gate_gamma and gate_beta [4H],
    cell_gamma and cell_beta [H]. W_x and W_h start orthogonal for each gate, biases at zero (A.2.3). The arguments
    are those of `LSTM`.
    """

    state_type = LSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        require_whole("input_size", input_size)
        require_whole("hidden_size", hidden_size)
        require_true_or_false("layer_norm", layer_norm)
        require_number("recurrent_dropout", recurrent_dropout, least=0, below=1)
        require_number("forget_bias", forget_bias)
        self.hidden_size = hidden_size
        self.state_sizes = (hidden_size, hidden_size)
        self.layer_norm = layer_norm
        self.recurrent_dropout = recurrent_dropout
        self.forget_bias = forget_bias

        self.weight_x = nn.Parameter(orthogonal_per_gate(hidden_size, input_size))
        self.weight_h = nn.Parameter(orthogonal_per_gate(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        if layer_norm:
            self.gate_gamma = nn.Parameter(torch.ones(4 * hidden_size))
            self.gate_beta = nn.Parameter(torch.zeros(4 * hidden_size))
            self.cell_gamma = nn.Parameter(torch.ones(hidden_size))
            self.cell_beta = nn.Parameter(torch.zeros(hidden_size))

    def input_weights(self) -> Tensors:
        """Return the matrices that x_t is multiplied by: W_x [4H, I]."""
        return (self.weight_x,)

    def recurrent_weights(self) -> Tensors:
        """Return the matrices that h_{t-1} is multiplied by: W_h [4H, H]."""
        return (self.weight_h,)

    def dropout_masks(self, input: Tensor) -> Masks:
        """Draw a mask of recurrent dropout for each time step, [T, B, H] of zeros and 1 / (1 - probability).

        All random numbers of a layer are drawn here, from the default generator of PyTorch. The mask is None in
        evaluation mode or without dropout.
        """
        if not self.training or self.recurrent_dropout == 0:
            return (None,)
        return (F.dropout(self.bias.new_ones(*input.shape[:2], self.hidden_size), self.recurrent_dropout),)

    def forward(self, h_products: Tensors, x_products: Tensors, state: LSTMState, masks: Masks) -> LSTMState:
        """Take one time step from W_h h_{t-1} and W_x x_t, each [B, 4H], the state and a mask [B, H] or None."""
        (h_product,), (x_product,), (mask,) = h_products, x_products, masks
        return self.update((h_product + x_product + self.bias).unflatten(-1, (4, -1)), state[1], mask)

    def update(self, gates: Tensor, c: Tensor, mask: Tensor | None, gate_axis: int = 1) -> LSTMState:
        """Return the new state (Eq. 13) from the gates, c_{t-1} [B, H], and a dropout mask [B, H] or None.

        The gates are those of Eq. 12 before their layer norm: [B, 4, H], or [4, B, H] where their axis is 0.
        """
        if self.layer_norm:
            normalised = F.layer_norm(gates, (self.hidden_size,), eps=LAYER_NORM_EPSILON)
            gamma, beta = (p.view(4, *[1] * (1 - gate_axis), -1) for p in (self.gate_gamma, self.gate_beta))
            gates = normalised * gamma + beta
        i, g, f, o = gates.unbind(gate_axis)
        # Without memory loss: only what is new is dropped, never what c remembers.
        new = torch.tanh(g) if mask is None else torch.tanh(g) * mask
        c = torch.sigmoid(f + self.forget_bias) * c + torch.sigmoid(i) * new
        # The next step receives c itself: its layer norm is only for h.
        c_for_h = c
        if self.layer_norm:
            c_for_h = F.layer_norm(c, (self.hidden_size,), self.cell_gamma, self.cell_beta, LAYER_NORM_EPSILON)
        return LSTMState(h=torch.sigmoid(o) * torch.tanh(c_for_h), c=c)

    def extra_repr(self) -> str:
        return (
            f"{self.weight_x.shape[1]}, {self.hidden_size}, layer_norm={self.layer_norm}, "
            f"recurrent_dropout={self.recurrent_dropout}, forget_bias={self.forget_bias}"
        )


def orthogonal_per_gate(hidden_size: int, columns: int) -> Tensor:
    """Draw an orthogonal matrix [H, columns] for each of the four gates (A.2.3); return them stacked, [4H, columns]."""
    return torch.cat([nn.init.orthogonal_(torch.empty(hidden_size, columns)) for _ in range(4)])


class LSTM(RecurrentLayer):
    """LSTM or Layer Norm LSTM, called like `torch.nn.LSTM` (see `RecurrentLayer`).

    The state is an `LSTMState`, that is `(h, c)`. Unlike `torch.nn.LSTM`, this layer has only one bias vector, the
    gate order i, g, f, o, and a forget bias that is added at run time, after layer norm.

    Args: those of `RecurrentLayer`, and
        layer_norm: whether to normalise each gate and the c that h reads (epsilon 1e-3). The gate bias stays.
        recurrent_dropout: probability of dropping an entry of tanh(g) at a time step in training mode; c is
            not dropped. One minus the paper's keep probability.
        forget_bias: added to the forget gate.

    Raises:
        UserError: a size below one or a dropout outside [0, 1).
    """

    cell_type = LSTMCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        forget_bias: float = 1.0,
        batch_first: bool = False,
    ) -> None:
        cell_settings = {"layer_norm": layer_norm, "recurrent_dropout": recurrent_dropout, "forget_bias": forget_bias}
        super().__init__(input_size, hidden_size, num_layers, batch_first, **cell_settings)
