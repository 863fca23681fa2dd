"""HyperLSTM and Layer Norm HyperLSTM (A.2.2, Eq. 10-13). The shape legend is in recurrent.py."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from hypernets.dynamic import Embeddings, RowScales
from hypernets.lstm import LSTMCell
from hypernets.recurrent import RecurrentLayer, check_dropout, check_sizes, input_product


class HyperLSTMState(NamedTuple):
    """State of a HyperLSTM, of the main network [num_layers, B, H] and of the hyper cell [num_layers, B, H^].

    In a cell the tensors have no first axis.
    """

    h: Tensor
    c: Tensor
    hyper_h: Tensor
    hyper_c: Tensor


class HyperLSTMCell(LSTMCell):
    """One layer of a HyperLSTM: an LSTM whose rows of weights a hypernetwork scales anew at every time step.

        h^_t, c^_t = LSTM([x_t; h_{t-1}], h^_{t-1}, c^_{t-1})                                  Eq. 10
        z_h^y = W h^_t + b,   z_x^y = W h^_t + b,   z_b^y = W h^_t                             Eq. 11
        d_h^y = W_hz^y z_h^y,   d_x^y = W_xz^y z_x^y,   b^y = W_bz^y z_b^y + b_0^y             Eq. 12
        y_t = LN(d_h^y * (W_h^y h_{t-1}) + d_x^y * (W_x^y x_t) + b^y)                          Eq. 12

    for each gate y; c_t and h_t follow as in `LSTMCell` (Eq. 13). Eq. 11 prints h^_{t-1}; like the authors'
    released cell this one uses the hyper cell's new output h^_t.

    Parameters: of the main network those of `LSTMCell`, its bias being b_0; of the hypernetwork `hyper_cell`,
    an LSTMCell that has layer norm where the main one has, `embeddings` and `row_scales`. The columns of the
    hyper cell's weight_x stand for x_t, then h_{t-1}.

    Args: see `HyperLSTM`.
    """

    state_type = HyperLSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        hyper_size: int = 128,
        embedding_size: int = 4,
        layer_norm: bool = True,
        recurrent_dropout: float = 0.0,
        hyper_recurrent_dropout: float = 0.0,
        forget_bias: float = 1.0,
    ) -> None:
        check_sizes(hyper_size=hyper_size, embedding_size=embedding_size)
        check_dropout(hyper_recurrent_dropout=hyper_recurrent_dropout)
        super().__init__(input_size, hidden_size, layer_norm, recurrent_dropout, forget_bias)
        self.input_size = input_size
        self.state_sizes = (hidden_size, hidden_size, hyper_size, hyper_size)
        self.hyper_cell = LSTMCell(
            input_size + hidden_size, hyper_size, layer_norm, hyper_recurrent_dropout, forget_bias
        )
        self.embeddings = Embeddings(hyper_size, embedding_size, gates=4)
        self.row_scales = RowScales(embedding_size, hidden_size, gates=4)

    def sequence_inputs(self, input: Tensor) -> tuple[Tensor | None, ...]:
        """Return the products with x_t and the dropout masks: of the main network, then of the hyper cell."""
        hyper_product = input_product(input, self.hyper_cell.weight_x[:, : self.input_size])
        return *super().sequence_inputs(input), hyper_product, self.hyper_cell.sequence_masks(input)

    def step(
        self,
        state: HyperLSTMState,
        x_product: Tensor,
        mask: Tensor | None,
        hyper_product: Tensor,
        hyper_mask: Tensor | None,
    ) -> HyperLSTMState:
        """Take one time step.

        Args:
            state: of the cell, each tensor [B, units].
            x_product: W_x x_t, [B, 4H].
            mask: of recurrent dropout in the main network, [B, H], or None.
            hyper_product: the hyper cell's product with x_t, [B, 4H^].
            hyper_mask: of recurrent dropout in the hyper cell, [B, H^], or None.
        """
        h, c, hyper_h, hyper_c = state
        # Eq. 10
        hyper_product = hyper_product + F.linear(h, self.hyper_cell.weight_x[:, self.input_size :])
        hyper_h, hyper_c = self.hyper_cell.step((hyper_h, hyper_c), hyper_product, hyper_mask)
        # Eq. 11-12
        d_h, d_x, b = self.row_scales(*self.embeddings(hyper_h))
        gates = d_h * F.linear(h, self.weight_h) + d_x * x_product + b + self.bias
        # Eq. 13
        h, c = self.update(gates, c, mask)
        return HyperLSTMState(h, c, hyper_h, hyper_c)


class HyperLSTM(RecurrentLayer):
    """HyperLSTM or Layer Norm HyperLSTM, called the way `torch.nn.LSTM` is (see `RecurrentLayer`).

    The state is a `HyperLSTMState`. `layer.cells[k]` has the parameters of layer k; the row scales of a
    state's last time step are `cell.row_scales(*cell.embeddings(state.hyper_h[k]))`.

    Args:
        input_size: I; where the input is token ids, the size of the vocabulary.
        hidden_size: H, units of the main LSTM.
        num_layers: cells in the stack, each with a hypernetwork of its own.
        hyper_size: units of the hyper cell.
        embedding_size: N_z.
        layer_norm: whether to normalise each gate and the c that h reads, in the main network and in the
            hyper cell.
        recurrent_dropout: probability of dropping an entry of the main network's tanh(g) at a time step in
            training mode; c is not dropped. One minus the paper's keep probability.
        hyper_recurrent_dropout: the same in the hyper cell (the paper's largest enwik8 model).
        forget_bias: added to the forget gates of both, after layer norm.
        batch_first: whether input and output are [B, T, ...].

    Raises:
        ValueError: a size below one or a dropout outside [0, 1).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        hyper_size: int = 128,
        embedding_size: int = 4,
        layer_norm: bool = True,
        recurrent_dropout: float = 0.0,
        hyper_recurrent_dropout: float = 0.0,
        forget_bias: float = 1.0,
        batch_first: bool = False,
    ) -> None:
        def make_cell(size: int) -> HyperLSTMCell:
            return HyperLSTMCell(
                size,
                hidden_size,
                hyper_size,
                embedding_size,
                layer_norm,
                recurrent_dropout,
                hyper_recurrent_dropout,
                forget_bias,
            )

        super().__init__(make_cell, input_size, hidden_size, num_layers, batch_first)
