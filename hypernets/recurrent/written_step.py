"""The time steps of `LSTM` and `HyperLSTM` with their derivatives written out, which both take without `compile()`.

lstm.py and hyperlstm.py define what is computed. `Step` finds the same derivative automatically, but it computes the
step again for that and takes longer; here, what the derivative needs is kept. The shape legend is in layer.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernets.recurrent.dynamic import Embeddings, RowScales
from hypernets.recurrent.hyperlstm import HyperLSTMCell
from hypernets.recurrent.lstm import LAYER_NORM_EPSILON, LSTMCell
from hypernets.recurrent.recurrence import Operands, Plan, Step

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.default, torch.ops.aten.tanh_backward.default
layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default

Tensors = Sequence[Tensor]


class WrittenUpdate:
    """`LSTMCell.update`, and its derivative.

    Gates are [B, 4, H], or [4, B, H] where `gate_axis` is 0.
    """

    def __init__(self, cell: LSTMCell, parameters: dict[str, Tensor], gate_axis: int) -> None:
        self.gate_axis, self.layer_norm, self.shape = gate_axis, cell.layer_norm, (cell.hidden_size,)
        forget_bias = torch.zeros_like(parameters["bias"])
        forget_bias.view(4, -1)[2] = cell.forget_bias
        if cell.layer_norm:
            self.bias = self._along_gates(parameters["bias"])
            self.gamma = self._along_gates(parameters["gate_gamma"])
            self.beta = self._along_gates(parameters["gate_beta"] + forget_bias)
            self.of_c = parameters["cell_gamma"], parameters["cell_beta"]
        else:
            self.bias = self._along_gates(parameters["bias"] + forget_bias)

    def _along_gates(self, parameter: Tensor) -> Tensor:
        return parameter.view(4, *[1] * (1 - self.gate_axis), -1)

    def forward(self, gates: Tensor, c: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return h, c, and what the derivative needs.

        The gates are those of `LSTMCell.update` without their bias.
        """
        gates, of_norms = gates + self.bias, []
        if self.layer_norm:
            normalised, _, scale = torch.native_layer_norm(gates, self.shape, None, None, LAYER_NORM_EPSILON)
            gates = normalised * self.gamma + self.beta
            of_norms = [normalised, scale]
        i, g, f, o = gates.unbind(self.gate_axis)
        i, g, f, o = torch.sigmoid(i), torch.tanh(g), torch.sigmoid(f), torch.sigmoid(o)
        c = f * c + i * (g if mask is None else g * mask)
        c_for_h = c
        if self.layer_norm:
            c_for_h, *moments = torch.native_layer_norm(c, self.shape, *self.of_c, LAYER_NORM_EPSILON)
            of_norms += [c, *moments]
        tanh_c = torch.tanh(c_for_h)
        return o * tanh_c, c, [i, g, f, o, tanh_c, *of_norms]

    def derivative(
        self,
        kept: Tensors,
        c: Tensor,
        mask: Tensor | None,
        d_h: Tensor,
        d_c: Tensor,
        d_parameters: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of the gates and of c before the step, from those of h and of c after it."""
        i, g, f, o, tanh_c, *of_norms = kept
        d_c_for_h = tanh_backward(d_h * o, tanh_c)
        if self.layer_norm:
            normalised, scale, *of_c = of_norms
            d_c_for_h, d_gamma, d_beta = layer_norm_backward(
                d_c_for_h, of_c[0], self.shape, *of_c[1:], *self.of_c, [True, True, True]
            )
            d_parameters["cell_gamma"] += d_gamma
            d_parameters["cell_beta"] += d_beta
        d_c = d_c + d_c_for_h
        d_new = d_c if mask is None else d_c * mask
        d_i, d_g = sigmoid_backward(d_new * g, i), tanh_backward(d_new * i, g)
        d_f, d_o = sigmoid_backward(d_c * c, f), sigmoid_backward(d_h * tanh_c, o)
        d_gates = torch.stack([d_i, d_g, d_f, d_o], self.gate_axis)
        batch_axis = 1 - self.gate_axis
        if self.layer_norm:
            d_parameters["gate_gamma"] += (d_gates * normalised).sum(batch_axis).view(-1)
            d_parameters["gate_beta"] += d_gates.sum(batch_axis).view(-1)
            # As if the normalised gates were normalised again: their mean is 0, and their scale 1.
            moments = torch.zeros_like(scale), torch.ones_like(scale)
            d_gates, _, _ = layer_norm_backward(
                d_gates * self.gamma, normalised, self.shape, *moments, None, None, [True, False, False]
            )
            d_gates = d_gates * scale
        d_parameters["bias"] += d_gates.sum(batch_axis).view(-1)
        return d_gates, d_c * f


class WrittenStep(Step):
    """What both steps share: they read the parameters themselves, not through the cell."""

    def within(self, work: Callable[[], Any]) -> Any:
        """See `Step`."""
        return work()


class WrittenLSTMStep(WrittenStep):
    """The step of an `LSTMCell`."""

    def __init__(self, plan: Plan, operands: Operands) -> None:
        super().__init__(plan, operands)
        self.update = WrittenUpdate(plan.cell, dict(zip(plan.names, operands.parameters, strict=True)), gate_axis=1)

    def next_state(self, inputs: Tensors, h: Tensor) -> Tensors:
        """See `Step`."""
        h_product, x_product, c, *masks = inputs
        gates = (h_product + x_product).unflatten(-1, (4, -1))
        new_h, c, self.kept_now = self.update.forward(gates, c, *self._with_none(masks))
        h.copy_(new_h)
        return [c]

    def keep(self, inputs: Tensors) -> list[Tensor]:
        """See `Step`; the product with h is not needed."""
        return [inputs[2], *self.kept_now]

    def derivative(self, *groups: Tensors) -> Tensors:
        """See `Step`."""
        kept, inputs, d_results, rooms, d_parameters = groups
        (c, *kept), (_, *masks) = kept, inputs
        d_output, d_h, d_c = d_results
        gradients = dict(zip(self.plan.names, d_parameters, strict=True))
        d_gates, d_c = self.update.derivative(kept, c, *self._with_none(masks), d_output + d_h, d_c, gradients)
        for room in rooms:
            room.copy_(d_gates.flatten(1))
        return [d_c]


class WrittenHyperLSTMStep(WrittenStep):
    """The step of a `HyperLSTMCell`."""

    def __init__(self, plan: Plan, operands: Operands) -> None:
        super().__init__(plan, operands)
        parameters = dict(zip(plan.names, operands.parameters, strict=True))
        self.update = WrittenUpdate(plan.cell, parameters, gate_axis=0)
        self.hyper_update = WrittenUpdate(plan.cell.hyper_cell, of_hyper_cell(parameters), gate_axis=1)
        self.hyper_weight = parameters["hyper_cell.weight_h"].to(plan.dtype)  # [4H^, H^]
        self.projection = parameters["embeddings.weight"].to(plan.dtype)  # [3 * 4 * N_z, H^]
        bias = parameters["embeddings.bias"].to(plan.dtype)
        self.projection_bias = F.pad(bias, (0, len(self.projection) - len(bias)))
        self.row_scales = parameters["row_scales.weight"].flatten(0, 1)  # [3 * 4, N_z, H]

    def next_state(self, inputs: Tensors, h: Tensor) -> Tensors:
        """See `Step`."""
        h_product, hyper_h_product, x_product, hyper_x_product = self._split(inputs[:2])
        c, hyper_h, hyper_c = inputs[2:5]
        mask, hyper_mask = self._with_none(inputs[5:])
        # Eq. 10
        hyper_input_product = hyper_x_product + hyper_h_product
        hyper_product = torch.addmm(hyper_input_product, hyper_h.to(self.plan.dtype), self.hyper_weight.t())
        hyper_gates = hyper_product.unflatten(-1, (4, -1))
        hyper_h, hyper_c, hyper_kept = self.hyper_update.forward(hyper_gates, hyper_c, hyper_mask)
        # Eq. 11-12
        z = F.linear(hyper_h.to(self.plan.dtype), self.projection, self.projection_bias).to(hyper_h.dtype)
        d_h, d_x, b = torch.bmm(of_gates(z, 12), self.row_scales).unflatten(0, (3, 4)).unbind()
        gates = d_h * of_gates(h_product) + d_x * of_gates(x_product) + b
        # Eq. 13
        new_h, c, kept = self.update.forward(gates, c, mask)
        h.copy_(new_h)
        self.kept_now = [*kept, *hyper_kept, hyper_h, z]
        return [c, hyper_h, hyper_c]

    def derivative(self, *groups: Tensors) -> Tensors:
        """See `Step`."""
        kept, inputs, d_results, rooms, d_parameters = groups
        (h_product, c, hyper_h, hyper_c, *kept), (x_product, *masks) = kept, inputs
        mask, hyper_mask = self._with_none(masks)
        *kept, new_hyper_h, z = kept
        half = len(kept) // 2  # both cells have layer norm, or neither has
        kept, hyper_kept = kept[:half], kept[half:]
        d_output, d_h, d_c, d_hyper_h, d_hyper_c = d_results
        gradients = dict(zip(self.plan.names, d_parameters, strict=True))
        dtype = self.plan.dtype
        # Eq. 13
        d_gates, d_c = self.update.derivative(kept, c, mask, d_output + d_h, d_c, gradients)
        # Eq. 12
        z = of_gates(z, 12)
        h_product, _, x_product, _ = self._split([h_product, x_product])
        d_h_product, d_hyper_h_product, d_x_product, d_hyper_x_product = rooms
        scales_h, scales_x = torch.bmm(z[:8], self.row_scales[:8]).split(4)
        torch.mul(d_gates, scales_h, out=of_gates(d_h_product))
        torch.mul(d_gates, scales_x, out=of_gates(d_x_product))
        d_scales = d_gates.new_empty(12, *d_gates.shape[1:])
        torch.mul(d_gates, of_gates(h_product), out=d_scales[:4])
        torch.mul(d_gates, of_gates(x_product), out=d_scales[4:8])
        d_scales[8:] = d_gates
        gradients["row_scales.weight"].view_as(self.row_scales).add_(torch.bmm(z.transpose(1, 2), d_scales))
        d_z = torch.bmm(d_scales, self.row_scales.transpose(1, 2)).transpose(0, 1).flatten(1).to(dtype)
        # Eq. 11
        gradients["embeddings.bias"] += d_z.sum(0)[: len(gradients["embeddings.bias"])]
        gradients["embeddings.weight"] += d_z.t() @ new_hyper_h.to(dtype)
        d_hyper_h = d_hyper_h + d_z @ self.projection
        # Eq. 10
        d_hyper_gates, d_hyper_c = self.hyper_update.derivative(
            hyper_kept, hyper_c, hyper_mask, d_hyper_h, d_hyper_c, of_hyper_cell(gradients)
        )
        d_hyper_product = d_hyper_gates.flatten(1).to(dtype)
        d_hyper_h_product.copy_(d_hyper_product)
        d_hyper_x_product.copy_(d_hyper_product)
        gradients["hyper_cell.weight_h"] += d_hyper_product.t() @ hyper_h.to(dtype)
        return [d_c, (d_hyper_product @ self.hyper_weight).to(d_c.dtype), d_hyper_c]


def of_gates(joined: Tensor, parts: int = 4) -> Tensor:
    """The parts for each gate, [parts, B, units], of [B, parts * units]."""
    return joined.unflatten(-1, (parts, -1)).transpose(0, 1)


def of_hyper_cell(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of the hyper cell, by the names that they have there."""
    return {name.removeprefix("hyper_cell."): p for name, p in parameters.items() if name.startswith("hyper_cell.")}


def written_step(cell: nn.Module) -> type[Step] | None:
    """The written step of an `LSTMCell` or a `HyperLSTMCell`; None for other cells, as for those with a hook."""
    known = (LSTMCell, HyperLSTMCell, Embeddings, RowScales)
    for module in cell.modules():
        hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        if type(module) not in known or hooks or module._backward_pre_hooks or "forward" in vars(module):
            return None
    return WrittenHyperLSTMStep if type(cell) is HyperLSTMCell else WrittenLSTMStep
