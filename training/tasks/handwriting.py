"""Handwriting generation: an LSTM, with or without a hypernetwork, predicts where the pen goes (section 4.5)."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.build import build_strokes
from data.strokes import StrokeSplits, StrokeWindow
from hypernets.errors import without
from models import handwriting_model
from training.distributed import Processes
from training.task import Metric, build_within_memory
from training.tasks.handwriting_samples import LOGGED_STEPS, picture, pixels, write
from training.tasks.mixture_density import negative_log_likelihood


class Handwriting(nn.Module):
    """Negative log-likelihood of pen strokes, by a network with `forward(offsets, state)` -> mixture outputs, state.

    Training minimises its mean over the steps of a batch. The log-loss is that of Graves (2013) and of Table 5: the
    sum over the steps of a line, each line in one pass from a zero state, averaged over lines. It is in nats, of the
    density of normalised offsets (data/strokes.py) together with the probability of the end of stroke, so it is
    negative where the density is above 1.
    """

    metric = Metric("log_loss", "log-loss", digits=1, unit=" nats per line")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, window: StrokeWindow, carried: None) -> tuple[Tensor, None]:
        """Return the mean loss in nats per step; batches are independent, so nothing is carried."""
        outputs, _ = self.network(window.inputs)
        losses = negative_log_likelihood(outputs, window.targets)
        return losses.where(window.counted, 0.0).sum() / window.predictions, None

    def compile(self) -> None:
        """Compile one time step of the recurrent layer; of the whole pass, every step would be in one huge graph."""
        self.network.recurrent_layer.compile()

    def pictures(self) -> dict[str, np.ndarray]:
        """A line that the network writes, always with the same draws, and how its row scales change (Figure 7)."""
        return {"handwriting/sample": pixels(picture([("", [write(self.network, LOGGED_STEPS)])]))}

    @torch.no_grad()
    def evaluate(
        self, windows: Iterable[StrokeWindow], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return {"loss": in nats per step, "log_loss": in nats per line} over all windows.

        The state is carried from window to window of the same lines.
        """
        was_training = self.training
        self.eval()
        # Loss, steps, lines: on the device until the end, so that no window waits for a transfer.
        sums = torch.zeros(3, dtype=torch.float64, device=next(self.parameters()).device)
        state = None
        try:
            for window in windows:
                outputs, state = self.network(window.inputs, None if window.is_first else state)
                losses = negative_log_likelihood(outputs, window.targets).where(window.counted, 0.0)
                lines = window.counted[0].sum() * window.is_first
                sums += torch.stack([losses.double().sum(), window.counted.sum().double(), lines.double()])
        finally:
            self.train(was_training)
        loss, steps, lines = total(sums).tolist()
        return {"loss": loss / steps, self.metric.key: loss / lines}


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[StrokeSplits, Handwriting]:
    """Build the splits and the task from the settings of a run."""
    dataset = without(settings["dataset"], "task", "name")
    splits = build_strokes(dataset, seed=settings["seed"], **vars(processes))
    groups = settings["main_net"], settings["hypernet"]
    build_network = partial(handwriting_model.build, *groups, splits.mean, splits.std)
    torch.manual_seed(settings["seed"])
    return splits, Handwriting(build_within_memory(build_network))
