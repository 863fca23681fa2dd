"""The fast path of the recurrent layers: what `run_cell` in layer.py defines, in another order.

    products with x_t       one per matrix for a block of time steps
    products with h_{t-1}   one per matrix and step; the matrix is laid out for this once per sequence
    the rest of a step      the cell's `forward`, traced to a graph and compiled; its derivative is another graph
    gradients of matrices   one product for a block of time steps instead of one per step
    kept for the backward   the state and the products with h_{t-1} of every step; all else is recomputed

A cell's maths is only in its `forward`: its derivative is found by automatic differentiation here, too.
The shape legend is in layer.py.
"""

import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import standalone_compile
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from hypernets.recurrent.step_operations import LARGEST_FUSED_SUM, REWRITTEN

# Rows (time steps times sequences) of a block: enough for a fast product, few enough to need little memory.
BLOCK_ROWS = 2048
# Laying a matrix out for oneDNN pays where it is large, and used in several steps.
SMALLEST_LAID_OUT, FEWEST_STEPS_LAID_OUT = 2**17, 8


def run_cell_compiled(cell: nn.Module, input: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Do what `run_cell` does, faster; the arguments, the result and the random numbers drawn are the same.

    Under autocast the matrix products are in its type, state and sums over time in float32.
    """
    device = input.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if state[0].dtype == torch.float64:
        autocast = None  # as PyTorch has it
    input_weights, recurrent_weights = cell.input_weights(), cell.recurrent_weights()
    multiplied = {weight.untyped_storage().data_ptr() for weight in (*input_weights, *recurrent_weights)}
    in_step = {name: p for name, p in cell.named_parameters() if p.untyped_storage().data_ptr() not in multiplied}
    operands = Operands(input_weights, recurrent_weights, cell.dropout_masks(input), state, tuple(in_step.values()))
    tensors = [tensor for group in operands for tensor in group]
    plan = Plan(cell, autocast, autocast or state[0].dtype, tuple(in_step), tuple(map(len, operands)))
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in [input, *tensors])
    output, *final_state = Recurrence.apply(plan, differentiable, input, *tensors)
    return output, cell.state_type(*final_state)


class Operands(NamedTuple):
    """What a cell computes with besides its input, in groups of tensors."""

    input_weights: Sequence[Tensor]
    recurrent_weights: Sequence[Tensor]
    masks: Sequence[Tensor | None]  # for the whole sequence
    state: Sequence[Tensor]  # before the first step
    parameters: Sequence[Tensor]  # those that the cell's `forward` reads

    def masks_at(self, t: int) -> list[Tensor]:
        """The masks of a time step, without those that are None."""
        return [mask[t] for mask in self.masks if mask is not None]


class Plan(NamedTuple):
    """What describes a computation besides its tensors."""

    cell: nn.Module
    autocast: torch.dtype | None
    dtype: torch.dtype  # of the matrix products
    names: tuple[str, ...]  # of the parameters that the cell's `forward` reads
    sizes: tuple[int, ...]  # of the groups of operands

    def operands(self, tensors: Sequence[Tensor | None]) -> Operands:
        """Undo the concatenation of the groups."""
        remaining = iter(tensors)
        return Operands(*(list(islice(remaining, size)) for size in self.sizes))


class Recurrence(torch.autograd.Function):
    """A cell over a sequence, as one function of the input and of the operands one after another."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, differentiable: bool, input: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return h at every time step, [T, B, H], and the final state."""
        operands, dtype = plan.operands(tensors), plan.dtype
        steps, batch_size = input.shape[:2]
        block = min(steps, max(1, BLOCK_ROWS // batch_size))
        multiply_x = input_multiplier(operands.input_weights, dtype, input)
        multiply_h = [multiplier(weight.to(dtype), steps) for weight in operands.recurrent_weights]
        parameters = [laid_out_for_steps(parameter) for parameter in operands.parameters]
        next_state = StepGraph(plan, "next_state", operands.masks)

        h, *memory = (tensor.contiguous() for tensor in operands.state)
        outputs = h.new_empty(steps, *h.shape)
        kept: list[Tensor] = []
        with torch.autocast(input.device.type, enabled=False):
            for t in range(steps):
                if t % block == 0:
                    x_products = multiply_x(input[t : t + block])
                rounded_h = h.to(dtype)
                h_products = [multiply(rounded_h) for multiply in multiply_h]
                if differentiable:
                    kept += [*h_products, *memory]
                x_products_now = [product[t % block] for product in x_products]
                h = outputs[t]
                memory = next_state([*h_products, *x_products_now, *memory, *operands.masks_at(t), *parameters, h])
        if differentiable:
            ctx.plan, ctx.block = plan, block
            ctx.present = [tensor is not None for tensor in tensors]
            ctx.save_for_backward(input, outputs, *(tensor for tensor in tensors if tensor is not None), *kept)
        return outputs, h.clone(), *memory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, *d_state: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what `forward` takes, from those of what it returns."""
        input, outputs, *saved = ctx.saved_tensors
        remaining = iter(saved)
        plan, block, dtype = ctx.plan, ctx.block, ctx.plan.dtype
        operands = plan.operands([next(remaining) if present else None for present in ctx.present])
        kept = list(remaining)
        steps, batch_size = input.shape[:2]
        multiply_x = input_multiplier(operands.input_weights, dtype, input)
        multiply_d_h = [multiplier(weight.to(dtype).t(), steps) for weight in operands.recurrent_weights]
        parameters = [laid_out_for_steps(parameter) for parameter in operands.parameters]
        derivative = StepGraph(plan, "derivative", operands.masks)

        of_x = MatrixGradients(operands.input_weights, dtype, block, batch_size)
        of_h = MatrixGradients(operands.recurrent_weights, dtype, block, batch_size)
        d_parameters = [torch.zeros_like(parameter) for parameter in parameters]
        d_input = torch.empty_like(input) if ctx.needs_input_grad[2] else None
        d_outputs = d_outputs.contiguous()
        d_h, *d_memory = (tensor.contiguous() for tensor in d_state)
        d_hs = [d_h.to(dtype)] + [torch.zeros_like(d_h, dtype=dtype)] * (len(multiply_d_h) - 1)
        products, per_step = len(multiply_d_h), len(kept) // steps
        with torch.autocast(input.device.type, enabled=False):
            for first in reversed(range(0, steps, block)):
                x = input[first : first + block]
                x_products = multiply_x(x)
                for i in reversed(range(len(x))):
                    t = first + i
                    h_products = kept[t * per_step : t * per_step + products]
                    memory = kept[t * per_step + products : (t + 1) * per_step]
                    d_products = [d_product[i] for d_product in (*of_h.d_products, *of_x.d_products)]
                    d_memory = derivative(
                        [*h_products, *(product[i] for product in x_products), *memory, *operands.masks_at(t)]
                        + [*parameters, d_outputs[t], *d_hs, *d_memory, *d_products, *d_parameters]
                    )
                    d_hs = [multiply(d_now) for multiply, d_now in zip(multiply_d_h, d_products, strict=False)]
                before = operands.state[0][None] if first == 0 else outputs[first - 1 : first]
                of_h.add(torch.cat([before, outputs[first : first + len(x) - 1]]))
                of_x.add(x if x.is_floating_point() else F.one_hot(x.long(), operands.input_weights[0].shape[1]))
                if d_input is not None:
                    d_input[first : first + len(x)] = of_x.d_multiplied(operands.input_weights, len(x))
        d_h, d_masks = sum(d_hs).to(d_h.dtype), [None] * len(operands.masks)
        return None, None, d_input, *of_x.totals, *of_h.totals, *d_masks, d_h, *d_memory, *d_parameters


class MatrixGradients:
    """Gradients of matrices W that multiply the same vectors, from those of the products for many vectors at once.

    Attributes:
        d_products: room for the gradients of the products in a block of time steps, each [block, B, rows].
        totals: the gradients of the matrices, summed over the blocks so far.
    """

    def __init__(self, weights: Sequence[Tensor], dtype: torch.dtype, block: int, batch_size: int) -> None:
        self.d_products = [weight.new_empty(block, batch_size, len(weight), dtype=dtype) for weight in weights]
        self.totals: list[Tensor] = []
        self._dtype = weights[0].dtype

    def add(self, vectors: Tensor) -> None:
        """Add the gradients of a block, in which the matrices multiplied `vectors`, [at most block, B, columns]."""
        vectors, steps = vectors.flatten(0, 1).to(self.d_products[0].dtype), len(vectors)
        blocks = [d_product[:steps].flatten(0, 1).t() for d_product in self.d_products]
        if not self.totals:
            self.totals = [(block @ vectors).to(self._dtype) for block in blocks]
        elif vectors.dtype == self._dtype:
            for total, block in zip(self.totals, blocks, strict=True):
                total.addmm_(block, vectors)
        else:
            for total, block in zip(self.totals, blocks, strict=True):
                total += block @ vectors

    def d_multiplied(self, weights: Sequence[Tensor], steps: int) -> Tensor:
        """Return the gradient of what the matrices multiplied in a block of this many steps."""
        pairs = zip(self.d_products, weights, strict=True)
        return sum(d_product[:steps] @ weight.to(d_product.dtype) for d_product, weight in pairs)


class StepGraph:
    """One time step of a cell, or its derivative, as a compiled function of a list of tensors.

    The tensors come in groups; those in brackets are written to. Masks that are None are left out.

        next_state  products with h_{t-1}, products with x_t, state without h, masks, parameters, [h]
                    -> new state without h
        derivative  the same up to the parameters, gradient of the output, gradients of h in parts (one for each
                    product of the next step), gradients of the state without h, [gradients of the products],
                    [gradients of the parameters, added to]
                    -> gradients of the state without h

    A graph is compiled for one batch size, and kept as long as its cell.
    """

    _compiled: WeakKeyDictionary[nn.Module, dict[Any, Callable]] = WeakKeyDictionary()

    def __init__(self, plan: Plan, kind: str, masks: Sequence[Tensor | None]) -> None:
        self.plan, self.kind = plan, kind
        self.drawn = tuple(mask is not None for mask in masks)
        self.products, _, _, state, self.parameters = plan.sizes
        self.memory = state - 1
        self.function: Callable | None = None

    def __call__(self, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        """Run it; all calls of one object are with tensors of the same shapes and layouts."""
        if self.function is None:
            layouts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
            known = self._compiled.setdefault(self.plan.cell, {})
            key = self.kind, self.plan.autocast, self.drawn, layouts
            if key not in known:
                known[key] = compile_graph(getattr(self, self.kind), tensors)
            self.function = known[key]
        return self.function(*tensors)

    def next_state(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take one time step."""
        *inputs, h = tensors
        new_h, *memory = self._call_cell(inputs)
        h.copy_(new_h)
        return tuple(memory)

    def derivative(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Differentiate a time step."""
        remaining = iter(tensors)
        products, parameters = 2 * self.products, self.parameters
        inputs = list(islice(remaining, products + self.memory + sum(self.drawn) + parameters))
        d_h = sum(islice(remaining, self.products), start=next(remaining))
        d_memory = list(islice(remaining, self.memory))
        d_products, d_parameters = (list(islice(remaining, size)) for size in (products, parameters))
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            state = self._call_cell(inputs)
        gradients = torch.autograd.grad(state, inputs, [d_h.to(state[0].dtype), *d_memory], allow_unused=True)
        for room, gradient in zip(d_products, gradients, strict=False):
            room.copy_(gradient)
        for total, gradient in zip(d_parameters, gradients[-parameters:], strict=True):
            if gradient is not None:
                total += gradient
        return gradients[products : products + self.memory]

    def _call_cell(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        remaining = iter(inputs)
        h_products, x_products = (tuple(islice(remaining, self.products)) for _ in range(2))
        memory = tuple(islice(remaining, self.memory))
        masks = tuple(next(remaining) if drawn else None for drawn in self.drawn)
        parameters = dict(zip(self.plan.names, remaining, strict=True))
        device, autocast = h_products[0].device.type, self.plan.autocast
        with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
            return tuple(functional_call(self.plan.cell, parameters, (h_products, x_products, (None, *memory), masks)))


def compile_graph(function: Callable, tensors: list[Tensor]) -> Callable:
    """Trace a function for tensors of these shapes and layouts, and compile it.

    If that fails, usually for lack of a compiler, a warning says so and the traced function is returned as it is.
    """
    tensors = [tensor.detach() for tensor in tensors]
    fused = make_fx(function, REWRITTEN, tracing_mode="fake")(*tensors)
    try:
        return standalone_compile(fused, tensors, dynamic_shapes="from_graph")
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"The time steps of recurrent layers run uncompiled, and slower, because compiling failed here: {reason}",
            stacklevel=2,
        )
        return make_fx(function, tracing_mode="fake")(*tensors)


def laid_out_for_steps(parameter: Tensor) -> Tensor:
    """Return the parameter, with its columns contiguous where a step reads them one by one."""
    is_narrow = parameter.dim() == 2 and parameter.shape[1] <= LARGEST_FUSED_SUM
    return parameter.t().contiguous().t() if is_narrow else parameter.contiguous()


def input_multiplier(weights: Sequence[Tensor], dtype: torch.dtype, input: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """Return the function from a part of the input, vectors or token ids, to its products, each [T, B, rows]."""
    weights = [weight.to(dtype) for weight in weights]
    if not input.is_floating_point():
        columns = [weight.t().contiguous() for weight in weights]
        return lambda ids: [F.embedding(ids.long(), each) for each in columns]
    multipliers = [multiplier(weight, len(input)) for weight in weights]

    def multiply(x: Tensor) -> list[Tensor]:
        x = x.to(dtype)
        return [multiply_by_one(x) for multiply_by_one in multipliers]

    return multiply


def multiplier(weight: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    """Return the function from vectors x [..., columns] to W x [..., rows], for use in this many steps."""
    is_float32, is_bfloat16 = weight.dtype == torch.float32, weight.dtype == torch.bfloat16
    has_layout = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    has_layout = has_layout and (is_float32 or is_bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not has_layout or weight.numel() < SMALLEST_LAID_OUT or steps < FEWEST_STEPS_LAID_OUT:
        return lambda x: F.linear(x, weight)
    # oneDNN's own layout, which torch.nn.LSTM uses too: about twice as fast here as MKL with the plain one.
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, laid_out, None, "none", [], "")
