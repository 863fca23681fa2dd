"""HyperRNN in both forms (section 3.2): Eq. 5-6 generate the weights, Eq. 7-8 scale their rows.

The shape legend is in layer.py.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets.errors import UserError, require_whole
from hypernets.recurrent.dynamic import INITIAL_ROW_SCALE, Embeddings, RowScales
from hypernets.recurrent.layer import Masks, RecurrentLayer, Tensors


class HyperRNNState(NamedTuple):
    """State of a HyperRNN; in a cell the tensors have no first axis."""

    h: Tensor  # [num_layers, B, H]
    hyper_h: Tensor  # [num_layers, B, H^]


class GeneratedWeights(nn.Module):
    """The full form: W_h(z_h) = <W_hz, z_h>, W_x(z_x) = <W_xz, z_x>, b(z_b) = W_bz z_b + b_0 (Eq. 6).

    Parameters: weight_hz [H, H, N_z], weight_xz [H, I, N_z], weight_bz [H, N_z], bias [H], that is N_z times
    the weights of a plain RNN.

    Initialisation, which the paper leaves open: every slice of weight_hz and weight_xz is orthogonal, scaled so that
    the entries of the generated matrix start as large as in the row-scaled form; weight_bz and b_0 are zero.
    """

    def __init__(self, input_size: int, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        # z starts at one, and so the generated matrix as the sum of N_z independent slices.
        gain = INITIAL_ROW_SCALE / math.sqrt(embedding_size)

        def orthogonal_slices(columns: int) -> nn.Parameter:
            slices = [nn.init.orthogonal_(torch.empty(hidden_size, columns), gain) for _ in range(embedding_size)]
            return nn.Parameter(torch.stack(slices, dim=-1))

        self.weight_hz = orthogonal_slices(hidden_size)
        self.weight_xz = orthogonal_slices(input_size)
        self.weight_bz = nn.Parameter(torch.zeros(hidden_size, embedding_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def input_weight(self) -> Tensor:
        """Return W_xz as a matrix [H * N_z, I]."""
        return self.weight_xz.transpose(1, 2).flatten(0, 1)

    def recurrent_weight(self) -> Tensor:
        """Return W_hz as a matrix [H * N_z, H].

        <W_hz, z> h is computed with h first: the same sum, without a matrix [H, H] for every sequence of the batch.
        """
        return self.weight_hz.transpose(1, 2).flatten(0, 1)

    def forward(self, h_product: Tensor, x_product: Tensor, z: Tensor) -> Tensor:
        """Return the argument of phi, [B, H], from W_hz h and W_xz x_t, each [B, H * N_z], and z [B, 3, 1, N_z]."""
        z_h, z_x, z_b = z.unbind(1)
        b = F.linear(z_b.squeeze(1), self.weight_bz) + self.bias
        embedding_size = z_h.shape[-1]
        h_product, x_product = (product.unflatten(-1, (-1, embedding_size)) for product in (h_product, x_product))
        return (h_product * z_h + x_product * z_x).sum(-1) + b


class RowScaledWeights(nn.Module):
    """The memory-efficient form: d_h * (W_h h_{t-1}) + d_x * (W_x x_t) + b(z_b) (Eq. 7-8).

    Parameters: weight_h [H, H], weight_x [H, I] (both start orthogonal), bias [H] and `row_scales`.
    """

    def __init__(self, input_size: int, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        self.weight_h = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)))
        self.weight_x = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, input_size)))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.row_scales = RowScales(embedding_size, hidden_size, gates=1)

    def input_weight(self) -> Tensor:
        """Return W_x [H, I]."""
        return self.weight_x

    def recurrent_weight(self) -> Tensor:
        """Return W_h [H, H]."""
        return self.weight_h

    def forward(self, h_product: Tensor, x_product: Tensor, z: Tensor) -> Tensor:
        """Return the argument of phi, [B, H], from W_h h and W_x x_t, each [B, H], and z [B, 3, 1, N_z]."""
        d_h, d_x, b = (scale.squeeze(0) for scale in self.row_scales(z))
        return d_h * h_product + d_x * x_product + b + self.bias


FORMS = {"row_scaled": RowScaledWeights, "full": GeneratedWeights}


class HyperRNNCell(nn.Module):
    """One layer of a HyperRNN; phi is tanh.

        h^_t = phi(W_h^ h^_{t-1} + W_x^ [x_t; h_{t-1}] + b^)                 Eq. 4
        z_h = W h^_t + b,   z_x = W h^_t + b,   z_b = W h^_t                 Eq. 6
        h_t = phi(W_h(z_h) h_{t-1} + W_x(z_x) x_t + b(z_b))                  Eq. 5

    where `weights` supplies the argument of phi in Eq. 5, in the full or in the row-scaled form. As in
    `HyperLSTM` the embeddings come from the hyper cell's new output.

    Parameters: `weights`; the hypernetwork has hyper_weight_x [H^, I + H], hyper_weight_h [H^, H^], hyper_bias [H^] and
    `embeddings`. The hyper cell's matrices start orthogonal, its bias at zero. The arguments are those of `HyperRNN`.
    """

    state_type = HyperRNNState

    def __init__(self, input_size: int, hidden_size: int, hyper_size: int, embedding_size: int, form: str) -> None:
        super().__init__()
        require_whole("hyper_size", hyper_size)
        require_whole("embedding_size", embedding_size)
        if form not in FORMS:
            raise UserError(f"form of a HyperRNN is {form!r}; it must be one of {', '.join(FORMS)}.")
        self.input_size = input_size
        self.state_sizes = (hidden_size, hyper_size)
        self.hyper_weight_x = nn.Parameter(nn.init.orthogonal_(torch.empty(hyper_size, input_size + hidden_size)))
        self.hyper_weight_h = nn.Parameter(nn.init.orthogonal_(torch.empty(hyper_size, hyper_size)))
        self.hyper_bias = nn.Parameter(torch.zeros(hyper_size))
        self.embeddings = Embeddings(hyper_size, embedding_size, gates=1)
        self.weights = FORMS[form](input_size, hidden_size, embedding_size)

    def input_weights(self) -> Tensors:
        """Return the matrices that x_t is multiplied by: of the main network, then of the hyper cell, [H^, I]."""
        return self.weights.input_weight(), self.hyper_weight_x[:, : self.input_size]

    def recurrent_weights(self) -> Tensors:
        """Return the matrices that h_{t-1} is multiplied by: of the main network, then of the hyper cell, [H^, H]."""
        return self.weights.recurrent_weight(), self.hyper_weight_x[:, self.input_size :]

    def dropout_masks(self, input: Tensor) -> Masks:
        """Return nothing: the paper defines recurrent dropout for LSTMs."""
        return ()

    def forward(self, h_products: Tensors, x_products: Tensors, state: HyperRNNState, masks: Masks) -> HyperRNNState:
        """Take one time step from the products of h_{t-1} and x_t with the main network's and the hyper cell's rows."""
        (h_product, hyper_h_product), (x_product, hyper_x_product) = h_products, x_products
        _, hyper_h = state
        # Eq. 4
        hyper_product = hyper_x_product + hyper_h_product + self.hyper_bias
        hyper_h = torch.tanh(F.linear(hyper_h, self.hyper_weight_h) + hyper_product)
        # Eq. 5-6, or Eq. 7-8
        h = torch.tanh(self.weights(h_product, x_product, self.embeddings(hyper_h)))
        return HyperRNNState(h, hyper_h)


class HyperRNN(RecurrentLayer):
    """HyperRNN, called like `torch.nn.LSTM` (see `RecurrentLayer`). The state is a `HyperRNNState`.

    Args: those of `RecurrentLayer`, and
        hyper_size: units of the hyper cell.
        embedding_size: N_z.
        form: "row_scaled", where the hypernetwork scales the rows of learned weights (Eq. 7-8), or "full",
            where it generates the weights (Eq. 5-6), with N_z times as many parameters.

    Raises:
        UserError: a size below one or an unknown form.
    """

    cell_type = HyperRNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        hyper_size: int = 128,
        embedding_size: int = 4,
        form: str = "row_scaled",
        batch_first: bool = False,
    ) -> None:
        cell_settings = {"hyper_size": hyper_size, "embedding_size": embedding_size, "form": form}
        super().__init__(input_size, hidden_size, num_layers, batch_first, **cell_settings)
