"""The curves of several runs in one picture (Figure 6).

    python -m scripts.plot_curves runs/A runs/B ... --output curves.png
    python -m scripts.plot_curves runs/A runs/B --metric train/loss --axis examples

By default the validation metric: bits per character, or the error.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hypernets import UserError
from training.command_line import one_line_errors
from training.run import METRICS, read_rows

Curve = tuple[str, list[float], list[float]]  # label, places on the axis, values


def curve(run: Path, axis: str, metric: str | None) -> tuple[list[float], list[float], str]:
    """The places on the axis and the values of a run's metric, and its name in metrics.jsonl."""
    if not (run / METRICS).exists():
        raise UserError(f"There is no run in {run}: it has no {METRICS}.")
    rows = read_rows(run)
    logged = sorted({key for row in rows for key in row})
    chosen = [key for key in logged if key.startswith("validation/") and key != "validation/loss"]
    metric = metric or (chosen[0] if chosen else "validation/...")
    if metric not in logged:
        raise UserError(f"The run {run} has not logged {metric}; it has {', '.join(logged) or 'no rows yet'}.")
    kept = [row for row in rows if metric in row]
    return [row[axis] for row in kept], [row[metric] for row in kept], metric


def draw(lines: Sequence[Curve], axis: str, metric: str, output: Path) -> None:
    """Draw curves into one picture; those of one label, such as the seeds of a row, share a colour."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="tight")
    labels = list(dict.fromkeys(label for label, _, _ in lines))
    palette = plt.colormaps["tab10" if len(labels) <= 10 else "tab20"].colors
    for label, places, values in lines:
        colour = palette[labels.index(label) % len(palette)]
        axes.plot(places, values, label=label, color=colour, marker="." if len(places) < 50 else None)
    axes.set(xlabel=axis, ylabel=metric.replace("_", " "))
    axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    legend = dict(zip(names, handles, strict=True))
    axes.legend(legend.values(), legend.keys(), fontsize=7)
    save_figure(figure, output)


def save_figure(figure: Figure, output: Path, dpi: int = 150) -> None:
    """Write a figure to a file, in the format that its name says."""
    try:
        figure.savefig(output, dpi=dpi)
    except (ValueError, OSError) as error:
        raise UserError(f"Cannot write {output} ({error}); choose another name with --output.") from None
    finally:
        plt.close(figure)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="the directories of runs, runs/NAME")
    parser.add_argument("--output", type=Path, default=Path("curves.png"))
    parser.add_argument("--metric", help="a key of metrics.jsonl, such as train/loss")
    parser.add_argument("--axis", choices=("step", "epoch", "examples"), default="step")
    arguments = parser.parse_args()
    with one_line_errors("plot_curves"):
        curves = [curve(run, arguments.axis, arguments.metric) for run in arguments.runs]
        names = {name for _, _, name in curves}
        if len(names) > 1:
            raise UserError(f"The runs have different metrics, {', '.join(sorted(names))}; choose one with --metric.")
        lines = [(str(run), *curve[:2]) for run, curve in zip(arguments.runs, curves, strict=True)]
        draw(lines, arguments.axis, names.pop(), arguments.output)


if __name__ == "__main__":
    main()
