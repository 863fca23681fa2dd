"""Lines that a handwriting model writes, and where its hypernetwork changes the weights (Figure 7)."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hypernets import UserError
from training.tasks.mixture_density import draw
from training.tasks.reader import GATES, Reader

if TYPE_CHECKING:  # Matplotlib takes a while to import: only those who draw wait
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOGGED_STEPS = 700  # about a line of IAM-OnDB
BINS = 500  # places along a line at which the change of the row scales is shown


class Written(NamedTuple):
    """A line that a model wrote."""

    points: np.ndarray  # x, y (which grows downwards) and whether a stroke ends, float [steps + 1, 3]
    changes: Tensor | None  # for a HyperLSTM, how much the row scales changed before each step, [steps, 4]


def write(model: nn.Module, steps: int, bias: float = 0.0, seed: int = 0) -> Written:
    """Let a model write.

    The model is in evaluation mode meanwhile. Its mode and PyTorch's random state are left as they were, so sampling
    does not change a training run.

    Args:
        model: a `HandwritingModel`, on any device.
        steps: how often the pen moves.
        bias: 0 for draws from the distribution that the model predicts, more for tidier lines.
        seed: the seed of the draws.
    """
    if steps < 1 or not 0 <= bias < math.inf:
        raise UserError(f"steps is {steps} and bias {bias}; a line needs a step, and bias must not be negative.")
    mean, std = model.offset_mean.cpu(), model.offset_std.cpu()
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    reader = Reader(model)
    rows = [torch.cat([-mean / std, torch.zeros(1)])]  # the pen is where it is: dx = dy = 0
    for _ in range(steps):
        outputs = reader.read(rows[-1].to(model.offset_mean.device)[None, None])
        rows.append(draw(outputs, bias, generator))
    model.train(was_training)
    offsets = torch.stack(rows)
    offsets[:, :2] = offsets[:, :2] * std + mean
    points = torch.cat([offsets[:, :2].cumsum(dim=0), offsets[:, 2:]], dim=1)
    return Written(points.numpy(), reader.changes())


def picture(columns: Sequence[tuple[str, Sequence[Written]]]) -> "Figure":
    """Draw columns of lines, all equally many, each with a title: black strokes, and a HyperLSTM's strip for each gate.

    A strip is dark where the row scales d_h of the gate changed most while the pen was above it; where the pen passed
    twice, the larger change counts. A strip has its full colour at its 99th percentile.
    """
    from matplotlib.figure import Figure

    heights = [max(map(_height, row)) for row in zip(*(lines for _, lines in columns), strict=True)]
    height, width = sum(heights), 1.0 + max(np.ptp(line.points[:, 0]) for _, lines in columns for line in lines)
    inches = 10 if len(columns) == 1 else 7
    figure = Figure(figsize=(inches * len(columns), inches * height / width + 0.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        for line, top in zip(lines, itertools.accumulate(heights, initial=0.0), strict=False):
            _draw_line(axes, line, top)
        axes.set(title=title, xlim=(-0.03 * width, 1.01 * width), ylim=(height, -0.01 * width), aspect="equal")
        axes.axis("off")
    return figure


def pixels(figure: "Figure") -> np.ndarray:
    """A figure as an image, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _gap(line: Written) -> float:
    """The space below a line, and the height of its strips."""
    return max(0.02 * np.ptp(line.points[:, 0]), 0.1 * np.ptp(line.points[:, 1]), 1.0)


def _height(line: Written) -> float:
    return np.ptp(line.points[:, 1]) + (1 if line.changes is None else 2.5) * _gap(line)


def _draw_line(axes: "Axes", line: Written, top: float) -> None:
    from matplotlib.collections import LineCollection

    place = line.points[:, :2] - line.points[:, :2].min(axis=0) + [0, top]
    strokes = np.split(place, np.flatnonzero(line.points[:, 2]) + 1)
    strokes = [np.concatenate([stroke, stroke[-1:] + 0.01]) for stroke in strokes if len(stroke)]  # dots, too
    axes.add_collection(LineCollection(strokes, colors="black", linewidths=0.8, capstyle="round"))
    if line.changes is None:
        return
    below, deep = top + np.ptp(line.points[:, 1]) + 0.5 * _gap(line), 1.5 * _gap(line)
    extent = (0, np.ptp(line.points[:, 0]), below + deep, below)
    axes.imshow(_strips(line), cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="equal", extent=extent)
    for gate, name in enumerate(GATES):
        axes.text(-1, below + (gate + 0.5) / len(GATES) * deep, f"{name} ", fontsize=5, ha="right", va="center")


def _strips(line: Written) -> np.ndarray:
    """The largest change of each gate at each place along a line, [4, BINS], as a share of the full colour."""
    x = line.points[:, 0]
    place = ((x - x.min()) / max(np.ptp(x), 1e-6) * (BINS - 1)).astype(int)
    changes = line.changes.double().nan_to_num().numpy()
    share = (changes / np.maximum(np.quantile(changes, 0.99, axis=0), 1e-12)).clip(0, 1)
    strips = np.zeros((len(GATES), BINS))
    for now, start, end in zip(share, place[:-1], place[1:], strict=True):
        passed = slice(min(start, end), max(start, end) + 1)
        strips[:, passed] = np.maximum(strips[:, passed], now[:, None])
    return strips
