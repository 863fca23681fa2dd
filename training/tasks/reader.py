"""A recurrent model that reads one input at a time, and how its hypernetwork changes the weights meanwhile."""

import torch
from torch import Tensor, nn

from hypernets.recurrent import run_cell

GATES = "igfo"


class Reader:
    """The state of a recurrent model between inputs, from zero on; for one sequence, without gradients.

    Args:
        model: a `RecurrentModel`, on any device, in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        layer = model.recurrent_layer
        self._model = model
        self._states = [cell.state_type(*(tensor[0] for tensor in layer.initial_state(1))) for cell in layer.cells]
        self._scales: list[Tensor] = []

    @torch.no_grad()
    def read(self, input: Tensor) -> Tensor:
        """Read one input, [1, 1, I] or an id [1, 1], and return the outputs of the model, [O], on the CPU."""
        output = input
        for index, cell in enumerate(self._model.recurrent_layer.cells):
            # By run_cell also where the layer is compiled: that would compile anew for one sequence at a time.
            output, self._states[index] = run_cell(cell, output, self._states[index])
        if shows_row_scales(self._model):
            d_h, _, _ = cell.row_scales(cell.embeddings(self._states[-1].hyper_h))  # of the rows of W_h (Eq. 11-12)
            self._scales.append(d_h[:, 0].float().cpu())  # [4, H]
        return self._model.read_out(output)[0, 0].float().cpu()

    def changes(self) -> Tensor | None:
        """For a HyperLSTM, how much the row scales d_h changed with each input, in the topmost layer.

        The norm of the change for each gate, [inputs, 4]; zero for the first input.
        """
        if not self._scales:
            return None
        changes = torch.stack(self._scales).diff(dim=0).norm(dim=-1)  # [inputs - 1, 4]
        return torch.cat([torch.zeros(1, len(GATES)), changes])


def shows_row_scales(model: nn.Module) -> bool:
    """Whether the model has a HyperLSTM, and so the row scales that Figures 4 and 7 show."""
    return hasattr(model.recurrent_layer.cells[-1], "row_scales")
