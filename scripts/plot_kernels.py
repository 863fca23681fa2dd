"""Draw the kernels of trained networks side by side, as Figures 2, 12 and 13.

    python scripts/plot_kernels.py runs/LEARNED runs/GENERATED --output kernels.png [--kernels 11 23]

Each row is a kernel, each column a run; every little square is one filter. By default the last kernels of the first
two groups of a Wide ResNet are drawn (16 x 16 and 32 x 32 channels at width 1), or the only kernel there is.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from eval import load_run
from training.command_line import one_line_errors
from training.kernel_images import kernel_image


def best_kernels(run: Path) -> tuple[str, list[Tensor]]:
    """The title of a run and the kernels of its best checkpoint.

    Raises:
        ValueError: as `load_run`, or the run's network has no kernels.
    """
    settings, _, task, _ = load_run(run, "cpu")
    if not hasattr(task.main_network, "kernel_source"):
        raise ValueError(f"The run {run} is of {settings['main_net']['name']!r}, which has no kernels.")
    with torch.no_grad():
        kernels = task.main_network.kernel_source()
    origin = "learned" if settings["hypernet"]["name"] == "none" else "generated"
    return f"{settings['main_net']['label']}, {origin}", kernels


def draw(runs: list[Path], indices: list[int] | None, output: Path) -> None:
    """Write the picture.

    Raises:
        ValueError: an index that a run has no kernel for.
    """
    titles, kernels = zip(*(best_kernels(run) for run in runs), strict=True)
    fewest = min(len(of_run) for of_run in kernels)
    chosen = indices if indices is not None else [fewest // 3 - 1, 2 * fewest // 3 - 1] if fewest > 2 else [0]
    for index in chosen:
        if not 0 <= index < fewest:
            raise ValueError(f"There is no kernel {index}; these runs have kernels 0 to {fewest - 1}.")
    figure, axes = plt.subplots(
        len(chosen), len(runs), figsize=(5 * len(runs), 5 * len(chosen)), squeeze=False, layout="constrained"
    )
    for row, index in zip(axes, chosen, strict=True):
        for cell, title, of_run in zip(row, titles, kernels, strict=True):
            c_out, c_in, height, width = of_run[index].shape
            cell.imshow(kernel_image(of_run[index], scale=2), interpolation="nearest")
            cell.set_title(f"{title}\nkernel {index}, {c_in} x {c_out} x {height} x {width}", fontsize=10)
            cell.axis("off")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("kernels.png"))
    parser.add_argument("--kernels", type=int, nargs="+", help="which kernels, counted from 0")
    arguments = parser.parse_args()
    with one_line_errors("plot_kernels.py"):
        draw(arguments.runs, arguments.kernels, arguments.output)


if __name__ == "__main__":
    main()
