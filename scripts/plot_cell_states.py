"""Histograms of tanh(c_t) of trained LSTMs, with and without a hypernetwork (Figure 5).

python -m scripts.plot_cell_states runs/A runs/B ... --output cell_states.png

Reads the first characters of each run's validation text, with the state carried on, and takes c_t of the topmost layer.
A cell whose histogram piles up at -1 and 1 is saturated.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from hypernets import UserError
from hypernets.errors import require_whole
from scripts.plot_curves import save_figure
from training.command_line import one_line_errors
from training.trained import load_trained


@torch.no_grad()
def cell_states(run: Path, characters: int, device: str) -> Tensor:
    """tanh(c_t) of the topmost layer for every unit and about `characters` characters of the validation text, 1-D."""
    settings, splits, task, _ = load_trained(run, device)
    layer = getattr(task.eval().network, "recurrent_layer", None)
    if layer is None or "c" not in layer.cells[-1].state_type._fields:
        raise UserError(f"The network of {run}, {settings['main_net']['name']!r}, has no cell state c_t to plot.")
    state, found = None, []
    for inputs, _, _ in splits.validation.evaluation_batches():
        for ids in inputs:
            _, state = layer(ids[None], state)
            found.append(state.c[-1].tanh().flatten().cpu())
            if len(found) * inputs.shape[1] >= characters:
                return torch.cat(found)
    return torch.cat(found)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="the directories of runs, runs/NAME")
    parser.add_argument("--output", type=Path, default=Path("cell_states.png"))
    parser.add_argument("--characters", type=int, default=20_000)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args()
    with one_line_errors("plot_cell_states"):
        require_whole("--characters", arguments.characters)
        values = [cell_states(run, arguments.characters, arguments.device) for run in arguments.runs]
        size = (4 * len(values), 3)
        figure, panels = plt.subplots(1, len(values), figsize=size, sharey=True, squeeze=False, layout="tight")
        for axes, run, shown in zip(panels[0], arguments.runs, values, strict=True):
            axes.hist(shown.numpy(), bins=100, range=(-1, 1), density=True)
            axes.set_title(run.name, fontsize=7)
            axes.set_xlabel("tanh(c_t)")
        panels[0, 0].set_ylabel("density")
        save_figure(figure, arguments.output)


if __name__ == "__main__":
    main()
