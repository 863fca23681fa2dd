"""The curves of several runs in one picture (Figure 6).

    python scripts/plot_curves.py runs/A runs/B ... --output curves.png
    python scripts/plot_curves.py runs/A runs/B --metric train/loss --axis examples

By default the validation metric: bits per character, or the error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from training.command_line import one_line_errors
from training.run_directory import METRICS, read_rows

Curve = tuple[str, list[float], list[float]]  # label, places on the axis, values


def curve(run: Path, axis: str, metric: str | None) -> tuple[list[float], list[float], str]:
    """The places on the axis and the values of a run's metric, and the metric's name.

    Args:
        run: the run's directory.
        axis: step, epoch or examples.
        metric: a key of metrics.jsonl; None for the validation metric that is not the loss.

    Raises:
        ValueError: there is no run, or it has not logged the metric.
    """
    if not (run / METRICS).exists():
        raise ValueError(f"There is no run in {run}: it has no {METRICS}.")
    rows = read_rows(run)
    logged = sorted({key for row in rows for key in row})
    chosen = [key for key in logged if key.startswith("validation/") and key != "validation/loss"]
    metric = metric or (chosen[0] if chosen else "validation/...")
    if metric not in logged:
        raise ValueError(f"The run {run} has not logged {metric}; it has {', '.join(logged) or 'no rows yet'}.")
    kept = [row for row in rows if metric in row]
    return [row[axis] for row in kept], [row[metric] for row in kept], metric


def draw(lines: Sequence[Curve], axis: str, metric: str, output: Path, **metadata: str) -> None:
    """Draw curves into one picture.

    Args:
        lines: label, places on the axis and values of each curve; those of one label, such as the seeds of a row,
            share a colour and a line of the legend.
        axis, metric: what these are.
        output: the picture, in the format that its name says.
        metadata: kept in the picture, which must then be a PNG.
    """
    figure, axes = plt.subplots(figsize=(8, 5))
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
    figure.tight_layout()
    figure.savefig(output, dpi=150, metadata=metadata or None)
    plt.close(figure)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="the directories of runs, runs/NAME")
    parser.add_argument("--output", type=Path, default=Path("curves.png"))
    parser.add_argument("--metric", help="a key of metrics.jsonl, such as train/loss")
    parser.add_argument("--axis", choices=("step", "epoch", "examples"), default="step")
    arguments = parser.parse_args()
    with one_line_errors("plot_curves.py"):
        curves = [curve(run, arguments.axis, arguments.metric) for run in arguments.runs]
        names = {name for _, _, name in curves}
        if len(names) > 1:
            raise ValueError(f"The runs have different metrics, {', '.join(sorted(names))}; choose one with --metric.")
        labels = [run.name for run in arguments.runs]
        if len(set(labels)) < len(labels):  # of several folders of runs
            labels = [str(run) for run in arguments.runs]
        lines = [(label, *curve[:2]) for label, curve in zip(labels, curves, strict=True)]
        draw(lines, arguments.axis, names.pop(), arguments.output)


if __name__ == "__main__":
    main()
