"""HyperLSTM and Layer Norm HyperLSTM (A.2.2, Eq. 10-13). The shape legend is in layer.py."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernets.errors import require_number, require_true_or_false, require_whole
from hypernets.recurrent.dynamic import Embeddings, RowScales
from hypernets.recurrent.layer import Masks, RecurrentLayer, Tensors
from hypernets.recurrent.lstm import LSTMCell


class HyperLSTMState(NamedTuple):
    """State of a HyperLSTM; in a cell the tensors have no first axis."""

    h: Tensor  # [num_layers, B, H]
    c: Tensor  # [num_layers, B, H]
    hyper_h: Tensor  # [num_layers, B, H^]
    hyper_c: Tensor  # [num_layers, B, H^]


class HyperLSTMCell(LSTMCell):
    """One layer of a HyperLSTM: an LSTM whose rows of weights a hypernetwork scales anew at every time step.

        h^_t, c^_t = LSTM([x_t; h_{t-1}], h^_{t-1}, c^_{t-1})                                  Eq. 10
        z_h^y = W h^_t + b,   z_x^y = W h^_t + b,   z_b^y = W h^_t                             Eq. 11
        d_h^y = W_hz^y z_h^y,   d_x^y = W_xz^y z_x^y,   b^y = W_bz^y z_b^y + b_0^y             Eq. 12
        y_t = LN(d_h^y * (W_h^y h_{t-1}) + d_x^y * (W_x^y x_t) + b^y)                          Eq. 12

    for each gate y; c_t and h_t follow as in `LSTMCell` (Eq. 13). Eq. 11 prints h^_{t-1}; like the authors'
    released cell, this one uses the hyper cell's new output h^_t.

    Parameters: the main network has those of `LSTMCell`, with b_0 as its bias. The hypernetwork has `hyper_cell`
    (an LSTMCell, with layer norm if the main one has it), `embeddings` and `row_scales`. The columns of the hyper
    cell's weight_x are for x_t, then h_{t-1}. The arguments are those of `HyperLSTM`.

    With the paper's initialisation (A.2.3), all N_z coordinates of z_h^y start equal and get equal gradients, so they
    stay equal. However large N_z is, d_h^y is then one number per time step times one learned vector, and so is
    d_x^y. `equal_start=False` breaks this symmetry.
    """

    state_type = HyperLSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        hyper_size: int = 128,
        embedding_size: int = 4,
        hyper_recurrent_dropout: float = 0.0,
        equal_start: bool = True,
        **main_settings: float,
    ) -> None:
        require_whole("hyper_size", hyper_size)
        require_whole("embedding_size", embedding_size)
        require_number("hyper_recurrent_dropout", hyper_recurrent_dropout, least=0, below=1)
        require_true_or_false("equal_start", equal_start)
        super().__init__(input_size, hidden_size, **main_settings)
        self.input_size = input_size
        self.state_sizes = (hidden_size, hidden_size, hyper_size, hyper_size)
        self.hyper_cell = LSTMCell(
            input_size + hidden_size, hyper_size, self.layer_norm, hyper_recurrent_dropout, self.forget_bias
        )
        self.embeddings = Embeddings(hyper_size, embedding_size, gates=4)
        self.row_scales = RowScales(embedding_size, hidden_size, gates=4)
        if not equal_start:
            self._spread_row_scales()

    @torch.no_grad()
    def _spread_row_scales(self) -> None:
        """Add noise as large as the weights to W_hz and W_xz, without changing the scales that they start with."""
        weight = self.row_scales.weight[:2]  # [2, gates, N_z, H]
        noise = torch.randn_like(weight)
        weight.addcmul_(weight, noise - noise.mean(dim=-2, keepdim=True))

    def input_weights(self) -> Tensors:
        """Return the matrices that x_t is multiplied by: W_x [4H, I], and the hyper cell's [4H^, I]."""
        return self.weight_x, self.hyper_cell.weight_x[:, : self.input_size]

    def recurrent_weights(self) -> Tensors:
        """Return the matrices that h_{t-1} is multiplied by: W_h [4H, H], and the hyper cell's [4H^, H]."""
        return self.weight_h, self.hyper_cell.weight_x[:, self.input_size :]

    def dropout_masks(self, input: Tensor) -> Masks:
        """Draw the masks of recurrent dropout: of the main network [T, B, H], of the hyper cell [T, B, H^]."""
        return super().dropout_masks(input) + self.hyper_cell.dropout_masks(input)

    def forward(self, h_products: Tensors, x_products: Tensors, state: HyperLSTMState, masks: Masks) -> HyperLSTMState:
        """Take one time step.

        The products of h_{t-1} and of x_t are [B, 4H] for the main network and [B, 4H^] for the hyper cell; the masks
        are [B, H] and [B, H^], or None.
        """
        (h_product, hyper_h_product), (x_product, hyper_x_product) = h_products, x_products
        mask, hyper_mask = masks
        _, c, hyper_h, hyper_c = state
        # Eq. 10: the hyper cell's input is [x_t; h_{t-1}].
        hyper_product = F.linear(hyper_h, self.hyper_cell.weight_h)
        hyper_input_product = hyper_x_product + hyper_h_product
        hyper_h, hyper_c = self.hyper_cell((hyper_product,), (hyper_input_product,), (hyper_h, hyper_c), (hyper_mask,))
        # Eq. 11-12
        d_h, d_x, b = self.row_scales(self.embeddings(hyper_h))
        h_product, x_product = (product.unflatten(-1, (4, -1)).transpose(0, 1) for product in (h_product, x_product))
        gates = d_h * h_product + d_x * x_product + b + self.bias.view(4, 1, -1)
        # Eq. 13
        h, c = self.update(gates, c, mask, gate_axis=0)
        return HyperLSTMState(h, c, hyper_h, hyper_c)


class HyperLSTM(RecurrentLayer):
    """HyperLSTM or Layer Norm HyperLSTM, called like `torch.nn.LSTM` (see `RecurrentLayer`).

    The state is a `HyperLSTMState`. `layer.cells[k]` has the parameters of layer k; the row scales of a
    state's last time step are `cell.row_scales(cell.embeddings(state.hyper_h[k]))`.

    Args: those of `LSTM` (layer_norm, here True by default, and forget_bias apply to both networks), and
        hyper_size: units of the hyper cell.
        embedding_size: N_z.
        hyper_recurrent_dropout: recurrent_dropout of the hyper cell (used in the paper's largest enwik8 model).
        equal_start: whether all coordinates of z_h and z_x start alike, as in the paper (see `HyperLSTMCell`).

    Raises:
        UserError: a size below one or a dropout outside [0, 1).
    """

    cell_type = HyperLSTMCell

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
        equal_start: bool = True,
        forget_bias: float = 1.0,
        batch_first: bool = False,
    ) -> None:
        cell_settings = {"layer_norm": layer_norm, "recurrent_dropout": recurrent_dropout, "forget_bias": forget_bias}
        cell_settings |= {"hyper_size": hyper_size, "embedding_size": embedding_size}
        cell_settings |= {"hyper_recurrent_dropout": hyper_recurrent_dropout, "equal_start": equal_start}
        super().__init__(input_size, hidden_size, num_layers, batch_first, **cell_settings)
