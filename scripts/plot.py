"""Pictures of runs: their curves (Figure 6), kernels (Figures 2, 8, 12 and 13) and cell states (Figure 5).

    python -m scripts.plot curves runs/A runs/B [--metric train/loss] [--axis examples]
    python -m scripts.plot kernels runs/LEARNED runs/GENERATED [--kernels blocks.5.second_convolution.weight]
    python -m scripts.plot cell_states runs/A runs/B [--characters 20000]
    python -m scripts.plot samples runs/A runs/B

Curves show the validation metric unless you name another. The picture of kernels has a row for each kernel, a column
for each run and a little square for each filter; by default it shows the last kernels of the first two groups of a Wide
ResNet. Cell states are histograms of tanh(c_t) in the topmost layer over the first characters of the validation text; a
saturated cell piles up at -1 and 1. Samples are the first picture in the folder pictures/ of each run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hypernets import HyperDNN, UserError
from hypernets.errors import require_whole
from scripts.record_result import TASK_METRICS
from training.command_line import one_line_errors
from training.run import METRICS, read_rows
from training.tasks.character_modelling import CharacterModelling
from training.tasks.image_classification import ImageClassification
from training.tasks.kernel_pictures import kernel_picture
from training.trained import load_trained

Curve = tuple[str, list[float], list[float]]  # label, places on the axis, values


def curve(run: Path, axis: str, metric: str | None) -> tuple[list[float], list[float], str]:
    """The places on the axis and the values of a run's metric, and its name in metrics.jsonl."""
    if not (run / METRICS).exists():
        raise UserError(f"There is no run in {run}: it has no {METRICS}.")
    rows = read_rows(run)
    logged = sorted({key for row in rows for key in row})
    metric = metric or next(
        (key for key in (f"validation/{key}" for key in TASK_METRICS) if key in logged), "validation/..."
    )
    if metric not in logged:
        raise UserError(f"The run {run} has not logged {metric}; it has {', '.join(logged) or 'no rows yet'}.")
    kept = [row for row in rows if metric in row]
    return [row[axis] for row in kept], [row[metric] for row in kept], metric


def draw_curves(lines: Sequence[Curve], axis: str, metric: str) -> Figure:
    """Curves in one picture."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="tight")
    plot_curves(axes, lines, axis, metric)
    return figure


def plot_curves(axes: Axes, lines: Sequence[Curve], axis: str, metric: str) -> None:
    """Plot curves; those with the same label, such as the seeds of a row, share a colour."""
    palette = plt.colormaps["tab10" if len({label for label, _, _ in lines}) <= 10 else "tab20"].colors
    colours: dict[str, tuple[float, ...]] = {}
    for label, places, values in lines:
        in_legend = label if label not in colours else None
        colour = colours.setdefault(label, palette[len(colours) % len(palette)])
        axes.plot(places, values, label=in_legend, color=colour, marker="." if len(places) < 50 else None)
    axes.set(xlabel=axis, ylabel=metric.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


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


def draw_kernels(runs: Sequence[Path], names: Sequence[str] | None) -> Figure:
    """The named kernels of runs side by side."""
    titles, kernels = zip(*(best_kernels(run) for run in runs), strict=True)
    if not names:  # neither the stem's nor 1x1
        shown = [name for name, kernel in kernels[-1].items() if kernel.shape[1] > 3 and kernel.shape[2] > 1]
        names = [shown[len(shown) // 3 - 1], shown[2 * len(shown) // 3 - 1]] if len(shown) > 2 else shown
    if not names:
        raise UserError(f"{runs[-1]} has no kernels to draw: {titles[-1]}; choose a convolutional network.")
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
    return figure


@torch.no_grad()
def cell_states(run: Path, characters: int) -> Tensor:
    """tanh(c_t) of the topmost layer for every unit and about `characters` characters of the validation text, 1-D."""
    settings, splits, task, _ = load_trained(run, "auto")
    layer = getattr(task.eval().network, "recurrent_layer", None)
    if not isinstance(task, CharacterModelling) or "c" not in layer.cells[-1].state_type._fields:
        raise UserError(f"The network of {run}, {settings['main_net']['name']!r}, has no cell state c_t to plot.")
    state, found = None, []
    for inputs, _, is_first in splits.validation.evaluation_batches():
        state = None if is_first else state
        for ids in inputs:
            _, state = layer(ids[None], state)
            found.append(state.c[-1].tanh().flatten().cpu())
            if len(found) * inputs.shape[1] >= characters:
                return torch.cat(found)
    return torch.cat(found)


def draw_cell_states(runs: Sequence[Path], characters: int) -> Figure:
    """A histogram of the cell states of each run."""
    require_whole("--characters", characters)
    values = [cell_states(run, characters) for run in runs]
    size = (4 * len(values), 3)
    figure, panels = plt.subplots(1, len(values), figsize=size, sharey=True, squeeze=False, layout="tight")
    for axes, run, shown in zip(panels[0], runs, values, strict=True):
        axes.hist(shown.numpy(), bins=100, range=(-1, 1), density=True)
        axes.set_title(run.name, fontsize=7)
        axes.set_xlabel("tanh(c_t)")
    panels[0, 0].set_ylabel("density")
    return figure


def draw_samples(runs: Sequence[Path]) -> Figure:
    """The first picture of each run, one below the other."""
    pictures = []
    for run in runs:
        found = sorted((run / "pictures").glob("*.png"))
        if not found:
            raise UserError(f"{run} has no picture in the folder pictures/; choose runs that draw some.")
        pictures.append(plt.imread(found[0]))
    size = (8, 9 * sum(map(len, pictures)) / pictures[0].shape[1])
    figure, panels = plt.subplots(len(runs), 1, figsize=size, squeeze=False, layout="constrained")
    for run, pixels, axes in zip(runs, pictures, panels[:, 0], strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(run.name, loc="left", fontsize=8)
        axes.axis("off")
    return figure


def save_figure(figure: Figure, output: Path) -> None:
    """Write a figure to a file, in the format that its name says."""
    try:
        figure.savefig(output, dpi=120)
    except (ValueError, OSError) as error:
        raise UserError(f"Cannot write {output} ({error}); choose another name.") from None
    finally:
        plt.close(figure)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("curves", "kernels", "cell_states", "samples"))
    parser.add_argument("runs", type=Path, nargs="+", help="the directories of runs, runs/NAME")
    parser.add_argument("--output", type=Path, help="the picture; WHAT.png by default")
    parser.add_argument("--metric", help="of curves, a key of metrics.jsonl, such as train/loss")
    parser.add_argument("--axis", choices=("step", "epoch", "examples"), default="step", help="of curves")
    parser.add_argument("--kernels", nargs="+", help="names of kernels")
    parser.add_argument("--characters", type=int, default=20_000, help="of cell states")
    arguments = parser.parse_args()
    with one_line_errors("plot"):
        if arguments.what == "kernels":
            figure = draw_kernels(arguments.runs, arguments.kernels)
        elif arguments.what == "cell_states":
            figure = draw_cell_states(arguments.runs, arguments.characters)
        elif arguments.what == "samples":
            figure = draw_samples(arguments.runs)
        else:
            curves = [curve(run, arguments.axis, arguments.metric) for run in arguments.runs]
            names = {name for _, _, name in curves}
            if len(names) > 1:
                raise UserError(f"The runs have different metrics, {', '.join(sorted(names))}; choose with --metric.")
            lines = [(str(run), *curve[:2]) for run, curve in zip(arguments.runs, curves, strict=True)]
            figure = draw_curves(lines, arguments.axis, names.pop())
        save_figure(figure, arguments.output or Path(f"{arguments.what}.png"))


if __name__ == "__main__":
    main()
