"""A cell over a sequence: `step_by_step` defines what it computes, and `run_cell` computes it in a faster order.

    products with x_t       one for all matrices and a block of time steps
    products with h_{t-1}   one for all matrices per step; they are laid out for this once per sequence
    the rest of a step      the cell's `forward`; automatic differentiation finds its derivative, one step at a time.
                            Those of `LSTM` and `HyperLSTM` are written out (written_step.py)
    gradients of matrices   one product for a block of time steps instead of one per step
    kept for the backward   the state and the products with h_{t-1} of every step, those with x_t if it is wide, and
                            what a written step asks for; all else is recomputed

None of this needs a compiler. After `compile()`, the rest of a step is a compiled graph, too (compiled_step.py).
What a cell is, and the shape legend, are in layer.py.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hypernets.transforms import are_batched, is_transformed

# Rows (time steps times sequences) of a block: enough for a fast product, few enough to need little memory.
BLOCK_ROWS = 1024
# In training, `Step` computes each step twice. With fewer recurrent weights than this, that costs more than the
# deferred gradients save (measured on two CPU cores, with products in float32 and in bfloat16).
FEWEST_WEIGHTS, FEWEST_WEIGHTS_BFLOAT16 = 2**20, 2**22
# Laying a matrix out for oneDNN pays where a product has many multiplications, in a sequence of several steps.
FEWEST_MULTIPLICATIONS, FEWEST_STEPS_LAID_OUT = 2**21, 8
# With this many entries of x_t, its products are kept for the backward pass: computing them again would take 5 per
# cent of the time of two layers of 1000 units, and keeping them takes a quarter of the memory of the second.
WIDE_INPUT = 256
# The largest block, in bytes, that glibc takes as a measure of what to keep (see `keep_memory_of_steps`).
LARGEST_KEPT = 2**25 - 2**12


class Operands(NamedTuple):
    """What a cell computes with besides its input, in groups of tensors."""

    input_weights: Sequence[Tensor]
    recurrent_weights: Sequence[Tensor]
    masks: Sequence[Tensor | None]  # for the whole sequence
    state: Sequence[Tensor]  # before the first step
    parameters: Sequence[Tensor] = ()  # those that the cell's `forward` reads


class Plan(NamedTuple):
    """What describes a computation besides its tensors."""

    cell: nn.Module
    step_type: type["Step"]
    differentiable: bool  # whether a backward pass may follow
    autocast: torch.dtype | None
    dtype: torch.dtype  # of the matrix products
    names: tuple[str, ...]  # of the parameters that the cell's `forward` reads
    sizes: tuple[int, ...]  # of the groups of operands

    def operands(self, tensors: Sequence[Tensor | None]) -> Operands:
        """Undo the concatenation of the groups."""
        remaining = iter(tensors)
        return Operands(*(list(islice(remaining, size)) for size in self.sizes))

    def with_parameters(self, parameters: Sequence[Tensor], work: Callable[[], Any]) -> Any:
        """Do the work while the cell's `forward` reads these parameters."""
        placed = {f"cell.{name}": parameter for name, parameter in zip(self.names, parameters, strict=True)}
        return functional_call(_Holder(self.cell), placed, (work,))


class _Holder(nn.Module):
    """Lets `functional_call` place the parameters of a cell once per sequence instead of once per step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def run_cell(
    cell: nn.Module, input: Tensor, state: tuple[Tensor, ...], step_type: type["Step"] | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one cell over a sequence: `step_by_step` on the cell's own operands, but faster.

    Under autocast the matrix products are in its type, state and sums over time in float32. The steps are taken one by
    one where something looks into them: a transform of `torch.func`, forward-mode differentiation or `torch.export`;
    where a weight of the cell is not a parameter, as after `torch.nn.utils.prune`; in a backward pass with
    `create_graph=True`, for second derivatives; and, with gradients and `Step`, where the layer is too narrow for
    another order to pay (a `HyperRNN`, or a cell of your own).

    Args:
        cell: see layer.py.
        input: real numbers [T, B, I], or token ids [T, B].
        state: the cell's own state before the first step, each tensor [B, units].
        step_type: `CompiledStep`, or None for a written step where there is one, and else `Step`.

    Returns:
        h at every time step, [T, B, H], and the state after the last one.
    """
    if torch.compiler.is_dynamo_compiling():
        return _run_cell_outside_of_graphs(cell, input, state, step_type)
    keep_memory_of_steps()
    _make_weights_anew(cell)
    operands = Operands(cell.input_weights(), cell.recurrent_weights(), cell.dropout_masks(input), state)
    if is_transformed() or _has_loose_tensors(cell):
        return step_by_step(cell, input, operands)

    matrices = (*operands.input_weights, *operands.recurrent_weights)
    in_step = {name: p for name, p in cell.named_parameters() if not any(_is_part_of(w, p) for w in matrices)}
    operands = operands._replace(parameters=tuple(in_step.values()))
    from hypernets.recurrent.written_step import written_step  # here, since that module needs this one

    device = input.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if state[0].dtype == torch.float64:
        autocast = None  # as PyTorch has it
    tensors = [tensor for group in operands for tensor in group]
    plan = Plan(
        cell,
        step_type or written_step(cell) or Step,
        torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in [input, *tensors]),
        autocast,
        autocast or state[0].dtype,
        tuple(in_step),
        tuple(map(len, operands)),
    )
    fewest = FEWEST_WEIGHTS_BFLOAT16 if autocast == torch.bfloat16 else FEWEST_WEIGHTS
    if plan.differentiable and plan.step_type is Step and sum(w.numel() for w in operands.recurrent_weights) < fewest:
        return step_by_step(cell, input, operands)
    output, *final_state = Recurrence.apply(plan, input, *tensors)
    return output, cell.state_type(*final_state)


# For `torch.compile`: the steps of a long sequence would be one huge graph. Not a decorator of `run_cell`, which would
# import the compiler in every program's first call.
_run_cell_outside_of_graphs = torch._disable_dynamo(run_cell)


@functools.cache
def keep_memory_of_steps() -> None:
    """Let the C library keep the memory that one time step frees for the next, instead of returning it to the system.

    glibc keeps blocks up to the size of the largest that was ever freed, within limits. So we free a large one, once;
    as nothing is written to it, it costs nothing.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)


def _make_weights_anew(cell: nn.Module) -> None:
    """Prune or normalise weights now: the hooks of `torch.nn.utils` wait for the module's call, after we read them."""
    for module in cell.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (BasePruningMethod, SpectralNorm, WeightNorm)):
                hook(module, ())


def _is_part_of(weight: Tensor, parameter: Tensor) -> bool:
    """Whether a matrix lies in the memory of a parameter. (Several parameters may share a storage.)"""
    offset = weight.data_ptr() - parameter.data_ptr()
    return parameter.is_contiguous() and 0 <= offset < parameter.numel() * parameter.element_size()


def _has_loose_tensors(cell: nn.Module) -> bool:
    """Whether a tensor with a gradient is neither a parameter nor made from one by a parametrisation."""
    attributes = (value for module in cell.modules() for value in vars(module).values())
    return any(isinstance(value, Tensor) and value.requires_grad for value in attributes)


def step_by_step(cell: nn.Module, input: Tensor, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one cell over a sequence, one time step after another: this defines what a layer computes.

    Arguments and result are those of `run_cell`, with the operands that the cell computes with.
    """
    x_products = [input_product(input, weight) for weight in operands.input_weights]
    state = cell.state_type(*operands.state)
    outputs = []
    # unbind, not product[t]: the gradient of an index is a whole sequence of zeros for every step.
    for t, x_products_now in enumerate(zip(*(product.unbind() for product in x_products), strict=True)):
        h_products = tuple(F.linear(state.h, weight) for weight in operands.recurrent_weights)
        masks = tuple(None if mask is None else mask[t] for mask in operands.masks)
        state = cell(h_products, x_products_now, state, masks)
        outputs.append(state.h)
    return torch.stack(outputs), state


def input_product(input: Tensor, weight: Tensor) -> Tensor:
    """Return the weight [rows, I] times the input of every time step, [T, B, rows].

    The input is [T, B, I], or token ids [T, B]: the product with a one-hot vector is a column of the matrix.
    """
    return F.linear(input, weight) if input.is_floating_point() else F.embedding(input.long(), weight.t())


class Recurrence(torch.autograd.Function):
    """A cell over a sequence, as one function of the input and of the operands one after another."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, input: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Return h at every time step, [T, B, H], and the final state."""
        operands, dtype = plan.operands(tensors), plan.dtype
        steps, batch_size = input.shape[:2]
        block = min(steps, max(1, BLOCK_ROWS // batch_size))
        multiply_x = input_multiplier(torch.cat(operands.input_weights).to(dtype), input, block)
        multiply_h = multiplier(torch.cat(operands.recurrent_weights).to(dtype), steps, batch_size)
        step = plan.step_type(plan, operands)

        h, *memory = (tensor.contiguous() for tensor in operands.state)
        outputs = h.new_empty(steps, *h.shape)
        kept: list[Tensor] = []
        kept_x_products: list[Tensor] = []  # of each block
        keeps_x_products = plan.differentiable and input.is_floating_point() and input.shape[2] >= WIDE_INPUT

        def take_steps() -> list[Tensor]:
            now, before = h, memory
            for t in range(steps):
                if t % block == 0:
                    x_products = multiply_x(input[t : t + block])
                    if keeps_x_products:
                        kept_x_products.append(x_products)
                inputs = [multiply_h(now.to(dtype)), x_products[t % block], *before, *step.masks_at(t)]
                now = outputs[t]
                before = step.next_state(inputs, now)
                if plan.differentiable:
                    kept.extend(step.keep(inputs))
            return before

        with torch.autocast(input.device.type, enabled=False):
            memory = step.within(take_steps)
        if plan.autocast is not None and not plan.differentiable:
            torch.clear_autocast_cache()  # or it would keep the step's parameters of every call
        if plan.differentiable:
            ctx.plan, ctx.block, ctx.kept_blocks = plan, block, len(kept_x_products)
            ctx.present = [tensor is not None for tensor in tensors]
            present = (tensor for tensor in tensors if tensor is not None)
            ctx.save_for_backward(input, *present, outputs, *kept_x_products, *kept)
        return outputs, outputs[-1].clone(), *memory

    @staticmethod
    def backward(ctx: Any, d_outputs: Tensor, *d_state: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what `forward` takes, from those of what it returns."""
        input, *saved = ctx.saved_tensors
        remaining = iter(saved)
        operands = ctx.plan.operands([next(remaining) if present else None for present in ctx.present])
        # Second derivatives are asked for, or several gradients at once, for which the room below would be too small.
        if torch.is_grad_enabled() or are_batched(d_outputs, *d_state):
            return None, *_gradients_step_by_step(ctx, input, operands, (d_outputs, *d_state))
        outputs = next(remaining)
        kept_x_products, kept = list(islice(remaining, ctx.kept_blocks)), list(remaining)
        plan, block, dtype = ctx.plan, ctx.block, ctx.plan.dtype
        steps, batch_size = input.shape[:2]
        input_weight, recurrent_weight = torch.cat(operands.input_weights), torch.cat(operands.recurrent_weights)
        multiply_x = None if kept_x_products else input_multiplier(input_weight.to(dtype), input, block)
        multiply_d_h = multiplier(recurrent_weight.to(dtype).t(), steps, batch_size)
        step = plan.step_type(plan, operands)

        of_x = MatrixGradient(input_weight, dtype, block, batch_size)
        of_h = MatrixGradient(recurrent_weight, dtype, block, batch_size)
        rooms = [step.rooms(d_products) for d_products in zip(of_h.d_products, of_x.d_products, strict=True)]
        d_parameters = [torch.zeros_like(parameter) for parameter in step.parameters]
        d_input = multiply_d_x = None
        if ctx.needs_input_grad[1]:
            d_input = torch.empty_like(input)
            multiply_d_x = multiplier(input_weight.to(dtype).t(), steps, block * batch_size)
        d_outputs = d_outputs.contiguous()
        d_h, *d_memory = (tensor.contiguous() for tensor in d_state)
        d_h = d_h.to(dtype)
        per_step = len(kept) // steps

        def take_steps_back() -> list[Tensor]:
            nonlocal d_h
            d_before = d_memory
            for first in reversed(range(0, steps, block)):
                x = input[first : first + block]
                x_products = kept_x_products[first // block] if kept_x_products else multiply_x(x)
                for i in reversed(range(len(x))):
                    t = first + i
                    d_before = step.derivative(
                        kept[t * per_step : (t + 1) * per_step],
                        [x_products[i], *step.masks_at(t)],
                        [d_outputs[t], d_h, *d_before],
                        rooms[i],
                        d_parameters,
                    )
                    d_h = multiply_d_h(of_h.d_products[i])
                before = operands.state[0][None] if first == 0 else outputs[first - 1 : first]
                of_h.add(torch.cat([before, outputs[first : first + len(x) - 1]]))
                of_x.add(x if x.is_floating_point() else F.one_hot(x.long(), input_weight.shape[1]))
                if d_input is not None:
                    d_input[first : first + len(x)] = multiply_d_x(of_x.d_products[: len(x)])
            return d_before

        with torch.autocast(input.device.type, enabled=False):
            d_memory = step.within(take_steps_back)
        d_input_weights = of_x.total.split([len(weight) for weight in operands.input_weights])
        d_recurrent_weights = of_h.total.split([len(weight) for weight in operands.recurrent_weights])
        d_masks, d_state = [None] * len(operands.masks), [d_h.to(outputs.dtype), *d_memory]
        return None, d_input, *d_input_weights, *d_recurrent_weights, *d_masks, *d_state, *d_parameters


def _gradients_step_by_step(
    ctx: Any, input: Tensor, operands: Operands, d_results: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of `input` and of the operands as autograd finds them, which can be differentiated again."""
    plan, needed, again = ctx.plan, ctx.needs_input_grad[1:], torch.is_grad_enabled()
    autocast = torch.autocast(input.device.type, plan.autocast or torch.bfloat16, enabled=plan.autocast is not None)
    with torch.enable_grad(), autocast:
        # As tensors of their own, or a gradient would include what comes through one operand from another.
        tensors = [t if t is None else t.view_as(t) for t in (input, *(t for group in operands for t in group))]
        input, *of_operands = tensors
        operands = plan.operands(of_operands)

        def take_steps() -> tuple[Tensor, tuple[Tensor, ...]]:
            return step_by_step(plan.cell, input, operands)

        output, state = plan.with_parameters(operands.parameters, take_steps)
    wanted = [tensor for tensor, is_needed in zip(tensors, needed, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad((output, *state), wanted, d_results, create_graph=again, allow_unused=True))
    return [next(gradients) if is_needed else None for is_needed in needed]


class MatrixGradient:
    """The gradient of a matrix W, from the gradients of its products with many vectors at once.

    Attributes:
        d_products: room for the gradients of the products in a block of time steps, [block, B, rows].
        total: the gradient of the matrix, summed over the blocks so far.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, block: int, batch_size: int) -> None:
        self.d_products = weight.new_empty(block, batch_size, len(weight), dtype=dtype)
        self.total = torch.zeros_like(weight)

    def add(self, vectors: Tensor) -> None:
        """Add the gradient of a block, in which the matrix multiplied `vectors`, [at most block, B, columns]."""
        d_products = self.d_products[: len(vectors)].flatten(0, 1)
        vectors = vectors.flatten(0, 1).to(d_products.dtype)
        # Where there is AVX-512, oneDNN uses it, and MKL does not on AMD's processors. Elsewhere MKL is faster.
        has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
        if has_avx512 and has_onednn(vectors) and vectors.dtype == torch.float32:
            operands = d_products.to_mkldnn(), vectors.to_mkldnn(), self.total  # of the last, only the shape counts
            gradient, _ = torch.ops.aten.mkldnn_linear_backward_weights(*operands, False)
            self.total += gradient
        elif vectors.dtype == self.total.dtype:
            self.total.addmm_(d_products.t(), vectors)
        else:
            self.total += d_products.t() @ vectors


class Step:
    """One time step of a cell, and its derivative, by automatic differentiation.

    `inputs` are the products with h_{t-1} [B, rows of all recurrent weights], the products with x_t [B, rows of all
    input weights], the state without h, and the masks that are not None.
    """

    def __init__(self, plan: Plan, operands: Operands) -> None:
        self.plan = plan
        self.masks = operands.masks
        self.h_rows = [len(weight) for weight in operands.recurrent_weights]
        self.x_rows = [len(weight) for weight in operands.input_weights]
        self.memory = len(operands.state) - 1
        self.kept_now: Sequence[Tensor] = ()  # of the last step, besides its inputs
        self.parameters = [parameter.detach().requires_grad_() for parameter in operands.parameters]

    def masks_at(self, t: int) -> list[Tensor]:
        """The masks of a time step, without those that are None."""
        return [mask[t] for mask in self.masks if mask is not None]

    def _with_none(self, masks: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
        """All masks of a time step, from those that are not None."""
        remaining = iter(masks)
        return tuple(None if mask is None else next(remaining) for mask in self.masks)

    def rooms(self, d_products: Sequence[Tensor]) -> list[Tensor]:
        """The parts of the gradients of a step's products that `derivative` writes to, one for each matrix."""
        return self._split(d_products)

    def within(self, work: Callable[[], Any]) -> Any:
        """Do the work, which calls `next_state` or `derivative`."""
        return self.plan.with_parameters(self.parameters, work)

    def next_state(self, inputs: Sequence[Tensor], h: Tensor) -> Sequence[Tensor]:
        """Take a time step: write to `h`, and return the new state without it."""
        h_product, x_product, *others = inputs
        new_h, *memory = self._call_cell(h_product.split(self.h_rows, -1), x_product.split(self.x_rows, -1), others)
        h.copy_(new_h)
        return memory

    def keep(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return what `derivative` needs of the step that `next_state` has just taken."""
        return [inputs[0], *inputs[2 : 2 + self.memory], *self.kept_now]

    def derivative(
        self,
        kept: Sequence[Tensor],
        inputs: Sequence[Tensor],
        d_results: Sequence[Tensor],
        rooms: Sequence[Tensor],
        d_parameters: Sequence[Tensor],
    ) -> Sequence[Tensor]:
        """Differentiate a time step.

        Args:
            kept: see `keep`.
            inputs: the products with x_t, and the masks.
            d_results: the gradients of its output, of h in the next step, and of the state without h after it.
            rooms: where to write the gradients of the products with h_{t-1} and x_t; what `rooms` returned.
            d_parameters: the gradients of the parameters so far, to add to.

        Returns:
            The gradients of the state without h before the step.
        """
        d_output, d_h, *d_memory = d_results
        (h_product, *memory), (x_product, *masks) = kept, inputs
        parts = [part.detach().requires_grad_() for part in self._split([h_product, x_product])]
        memory = [tensor.detach().requires_grad_() for tensor in memory]
        with torch.enable_grad():
            h_products, x_products = parts[: len(self.h_rows)], parts[len(self.h_rows) :]
            state = self._call_cell(h_products, x_products, [*memory, *masks])
        given = zip(state, [d_output + d_h, *d_memory], strict=True)
        differentiable, d_state = zip(*((field, d) for field, d in given if field.requires_grad), strict=True)
        gradients = torch.autograd.grad(differentiable, [*parts, *memory, *self.parameters], d_state, allow_unused=True)
        for room, gradient in zip(rooms, gradients, strict=False):
            room.zero_() if gradient is None else room.copy_(gradient.unflatten(-1, room.shape[1:]))
        for total, gradient in zip(d_parameters, gradients[len(parts) + len(memory) :], strict=True):
            if gradient is not None:
                total += gradient
        d_before = gradients[len(parts) : len(parts) + len(memory)]
        return [torch.zeros_like(m) if d is None else d for m, d in zip(memory, d_before, strict=True)]

    def _split(self, products: Sequence[Tensor]) -> list[Tensor]:
        """The products with each of the matrices, from those with h and with x."""
        h_product, x_product = products
        return [*h_product.split(self.h_rows, -1), *x_product.split(self.x_rows, -1)]

    def _call_cell(self, h_products: Sequence[Tensor], x_products: Sequence[Tensor], others: Sequence[Tensor]) -> Any:
        remaining = iter(others)
        state = (None, *islice(remaining, self.memory))
        masks = self._with_none(remaining)
        if self.plan.autocast is None:
            return self.plan.cell(h_products, x_products, state, masks)
        with torch.autocast(h_products[0].device.type, self.plan.autocast):
            return self.plan.cell(h_products, x_products, state, masks)


def input_multiplier(weight: Tensor, input: Tensor, block: int) -> Callable[[Tensor], Tensor]:
    """Return the function from a block of the input, vectors or token ids, to its products, [block, B, rows]."""
    if not input.is_floating_point():
        columns = weight.t().contiguous()
        return lambda ids: F.embedding(ids.long(), columns)
    multiply = multiplier(weight, len(input), block * input.shape[1])
    return lambda x: multiply(x.to(weight.dtype))


def has_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN can multiply this tensor: in float32, on AMD processors with AVX-512, twice as fast as MKL."""
    if tensor.device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return tensor.dtype == torch.float32 or is_bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def multiplier(weight: Tensor, steps: int, vectors: int) -> Callable[[Tensor], Tensor]:
    """Return the function from vectors x [..., columns] to W x [..., rows].

    It is laid out for this many vectors in each product, in a sequence of this many steps.
    """
    is_small = vectors * weight.numel() < FEWEST_MULTIPLICATIONS or steps < FEWEST_STEPS_LAID_OUT
    if is_small or not has_onednn(weight):
        return lambda x: F.linear(x, weight)
    # oneDNN's own layout, which torch.nn.LSTM uses too; F.linear would take MKL.
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, laid_out, None, "none", [], "")
