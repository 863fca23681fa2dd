"""Draw the kernels of trained networks side by side, as Figures 2, 12 and 13.

    python -m scripts.plot_kernels runs/LEARNED runs/GENERATED --output kernels.png
    python -m scripts.plot_kernels runs/LEARNED --kernels blocks.5.second_convolution.weight

Each row is a kernel, each column a run; every little square is one filter. By default two kernels are drawn, which in a
Wide ResNet end the first two groups.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from hypernets import HyperDNN, UserError
from scripts.plot_curves import save_figure
from training.command_line import one_line_errors
from training.tasks.image_classification import ImageClassification
from training.tasks.kernel_pictures import kernel_picture
from training.trained import load_trained


@torch.no_grad()
def best_kernels(run: Path) -> tuple[str, dict[str, Tensor]]:
    """The title of a run, and the kernels of its best network by name."""
    settings, _, task, _ = load_trained(run, "cpu")
    main_net = settings["main_net"]["name"]
    if not isinstance(task, ImageClassification):
        raise UserError(f"The run {run} is of {main_net!r}, which has no kernels.")
    is_hyper = isinstance(task.network, HyperDNN)
    kernels = task.kernels(task.network.weights() if is_hyper else {})
    return f"{main_net}, {'generated' if is_hyper else 'learned'}", kernels


def draw(runs: Sequence[Path], names: Sequence[str] | None, output: Path) -> None:
    """Write the picture."""
    titles, kernels = zip(*(best_kernels(run) for run in runs), strict=True)
    if not names:  # neither the stem's nor 1x1
        shown = [name for name, kernel in kernels[-1].items() if kernel.shape[1] > 3 and kernel.shape[2] > 1]
        names = [shown[len(shown) // 3 - 1], shown[2 * len(shown) // 3 - 1]] if len(shown) > 2 else shown
    size = (5 * len(runs), 5 * len(names))
    figure, axes = plt.subplots(len(names), len(runs), figsize=size, squeeze=False, layout="constrained")
    for row, name in zip(axes, names, strict=True):
        for cell, run, title, of_run in zip(row, runs, titles, kernels, strict=True):
            if name not in of_run:
                raise UserError(f"{run} has no kernel {name!r}; choose with --kernels among {', '.join(of_run)}.")
            c_out, c_in, height, width = of_run[name].shape
            cell.imshow(kernel_picture(of_run[name], scale=2), interpolation="nearest")
            cell.set_title(f"{title}\n{name}, {c_in} x {c_out} x {height} x {width}", fontsize=10)
            cell.axis("off")
    save_figure(figure, output, dpi=100)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("kernels.png"))
    parser.add_argument("--kernels", nargs="+", help="names of kernels, such as blocks.5.second_convolution.weight")
    arguments = parser.parse_args()
    with one_line_errors("plot_kernels"):
        draw(arguments.runs, arguments.kernels, arguments.output)


if __name__ == "__main__":
    main()
