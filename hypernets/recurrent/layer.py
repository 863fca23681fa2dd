"""What all recurrent layers share: the interface of `torch.nn.LSTM`. recurrence.py runs their cells over a sequence.

A layer (`LSTM`, `HyperLSTM`, `HyperRNN`) is a stack of cells. A cell has the parameters and the maths of one
layer of the stack:

    state_type, state_sizes   the named tuple of the state (its first field is h), and the units of each field
    input_weights()           the matrices that x_t is multiplied by, each [rows, I]
    recurrent_weights()       the matrices that h_{t-1} is multiplied by, each [rows, H]
    dropout_masks(input)      masks of recurrent dropout for a whole sequence, each [T, B, units] or None
    forward(h_products, x_products, state, masks)
                              one time step, from the products of h_{t-1} and of x_t with these matrices to the
                              next state. It does not read state.h: h_{t-1} acts through its products only.
                              The backward pass calls it again, so it draws no random numbers; `dropout_masks` does.
                              After `compile()`, its attributes and buffers are constants.

Shape legend
    T, B     time steps, sequences in the batch
    I, H     input size, units of the main network
    H^, N_z  units of the hyper cell, embedding size
    gates    i, g, f, o, stacked in this order along 4 H (4 for an LSTM, 1 for an RNN)
"""

import torch
from torch import Tensor, nn

from hypernets.errors import UserError, require_whole
from hypernets.recurrent.recurrence import Step, run_cell
from hypernets.transforms import is_transformed

Tensors = tuple[Tensor, ...]
Masks = tuple[Tensor | None, ...]


class RecurrentLayer(nn.Module):
    """A stack of recurrent cells, called like `torch.nn.LSTM`; each cell reads the h of the one below.

    Packed sequences, inputs without a batch and two directions are not supported.

    Args:
        input_size: I; where the input is token ids, the size of the vocabulary.
        hidden_size: H, units of the main network in every cell.
        num_layers: cells in the stack.
        batch_first: whether input and output are [B, T, ...] instead of [T, B, ...]. The state is the same either way.
        cell_settings: the other arguments of `cell_type`.
    """

    cell_type: type[nn.Module]

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, batch_first: bool, **cell_settings: float | str
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            require_whole(name, size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        input_sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(self.cell_type(size, hidden_size, **cell_settings) for size in input_sizes)
        self._step_type: type[Step] | None = None

    def compile(self) -> None:
        """Compile one time step and its derivative: the same results, except for rounding, in less time.

        The first call with each batch size then compiles for about 20 to 30 seconds; PyTorch's cache keeps the
        compiled code for the next process. Needs a C++ compiler on a CPU and Triton on a GPU; without it, a warning
        says so and the layer works uncompiled.
        """
        from hypernets.recurrent.compiled_step import CompiledStep  # here, since that module needs this one

        self._step_type = CompiledStep

    def initial_state(self, batch_size: int) -> Tensors:
        """Return the zero state for B sequences: a named tuple of tensors, each [num_layers, B, units]."""
        cell = self.cells[0]
        weight = next(cell.parameters())
        return cell.state_type(*(weight.new_zeros(self.num_layers, batch_size, units) for units in cell.state_sizes))

    def forward(self, input: Tensor, state: Tensors | None = None) -> tuple[Tensor, Tensors]:
        """Run the layer over a batch of sequences.

        Args:
            input: real numbers [T, B, I], or token ids, integers [T, B] below I, which stand for one-hot vectors;
                [B, T, I] or [B, T] with `batch_first`.
            state: the state to start from, each tensor [num_layers, B, units]; a plain tuple in the same order will
                do. Zero if not given.

        Returns:
            The h of the topmost cell at every time step, [T, B, H] ([B, T, H] with `batch_first`), and the final state.

        Raises:
            UserError: an input or a state of another shape or type, or a token id outside the vocabulary (checked on
                the CPU only: on an accelerator the check would wait for the device in every step).
        """
        self._check_input(input)
        dtype = next(self.parameters()).dtype
        if torch.float64 in (dtype, input.dtype) and input.is_floating_point():  # which autocast leaves as they are
            input = input.to(dtype)
        if self.batch_first:
            input = input.transpose(0, 1)
        batch_size = input.shape[1]
        state = self.initial_state(batch_size) if state is None else self._checked_state(state, batch_size)

        final_states = []
        for index, cell in enumerate(self.cells):
            input, final_state = run_cell(cell, input, tuple(tensor[index] for tensor in state), self._step_type)
            final_states.append(final_state)
        output = input.transpose(0, 1) if self.batch_first else input
        return output, type(state)(*(torch.stack(tensors) for tensors in zip(*final_states, strict=True)))

    def _check_input(self, input: Tensor) -> None:
        axes = "[B, T" if self.batch_first else "[T, B"
        if not isinstance(input, Tensor):
            raise UserError(
                f"The input is a {type(input).__name__}; give a tensor, padded to one length if sequences differ."
            )
        if is_token_ids(input):
            if input.dim() != 2 or 0 in input.shape:
                raise UserError(
                    f"The token ids have the shape {list(input.shape)}; expected {axes}] with neither zero, "
                    f"or real numbers {axes}, {self.input_size}]."
                )
            can_be_read = input.device.type == "cpu" and not is_transformed()
            if can_be_read and not 0 <= int(input.min()) <= int(input.max()) < self.input_size:
                raise UserError(
                    f"The token ids go from {int(input.min())} to {int(input.max())}; this layer was built "
                    f"with input_size={self.input_size}, so give it ids from 0 to {self.input_size - 1}."
                )
        elif not input.is_floating_point():
            raise UserError(f"The input is of type {input.dtype}; give real numbers, or token ids as integers.")
        elif input.dim() != 3 or 0 in input.shape or input.shape[2] != self.input_size:
            raise UserError(
                f"The input has the shape {list(input.shape)}; expected {axes}, {self.input_size}] with "
                f"none of them zero, or token ids {axes}] as integers."
            )
        else:
            self._check_type("The input", input)

    def _check_type(self, what: str, tensor: Tensor) -> None:
        """Refuse another type than that of the weights, as torch.nn.LSTM does; autocast takes any."""
        dtype = next(self.cells[0].parameters()).dtype
        if tensor.dtype != dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise UserError(f"{what} is of type {tensor.dtype} and the layer {dtype}; convert it by .to({dtype}).")

    def _checked_state(self, state: Tensors, batch_size: int) -> Tensors:
        cell = self.cells[0]
        names = cell.state_type._fields
        if len(state) != len(names):
            raise UserError(f"The state has {len(state)} tensors; this layer's has {len(names)}: {', '.join(names)}.")
        for name, tensor, units in zip(names, state, cell.state_sizes, strict=True):
            expected = [self.num_layers, batch_size, units]
            if list(tensor.shape) != expected:
                raise UserError(
                    f"{name} of the state has the shape {list(tensor.shape)}; expected [num_layers, B, "
                    f"units] = {expected} for this layer and this input."
                )
            self._check_type(f"{name} of the state", tensor)
        dtype = next(cell.parameters()).dtype
        return cell.state_type(*(tensor.to(dtype) for tensor in state))

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, batch_first={self.batch_first}"


def detach_state(state: Tensors) -> Tensors:
    """Return the state (a layer's, or the plain tuple of `torch.nn.LSTM`) without its graph."""
    detached = tuple(tensor.detach() for tensor in state)
    return state._make(detached) if hasattr(state, "_make") else detached


def is_token_ids(input: Tensor) -> bool:
    """Whether the input is of an integer type, and so holds ids that stand for one-hot vectors."""
    return not (input.is_floating_point() or input.is_complex() or input.dtype == torch.bool)
