"""Character-level language modelling: an LSTM, with or without a hypernetwork (sections 4.3 and 4.4)."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.build import build_text
from data.text import TextSplits
from hypernets import detach_state
from hypernets.errors import require_number, without
from models import character_model
from training.distributed import Processes
from training.task import Metric, build_within_memory
from training.tasks.reader import shows_row_scales
from training.tasks.text_samples import row_scales_page


class CharacterModelling(nn.Module):
    """Cross-entropy on windows of text, by a network with `forward(ids, state)` -> logits, state.

    The recurrent state passes from each window to the next. Gradients do not: the carried state is detached.

    Args:
        network: the model of the text.
        restart_probability: of a stream, in each window in training mode: its carried state becomes zero. A network
            that rarely starts from zero may forget how to (Melis et al. 2018, whose drop_state_probability this is).
    """

    metric = Metric("bits_per_character", "bits per character", digits=3)

    def __init__(self, network: nn.Module, restart_probability: float = 0.0) -> None:
        super().__init__()
        require_number("restart_probability", restart_probability, least=0, below=1)
        self.network = network
        self.restart_probability = restart_probability

    def forward(
        self, window: tuple[Tensor, Tensor, bool], carried: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean loss in nats per character, and the state after the window.

        A window has ids [T, B], the ids that follow them [T, B], and whether the streams begin here; if they do, the
        carried state is dropped (data/text.py).
        """
        inputs, targets, is_first = window
        logits, state = self.network(inputs, None if is_first else self._restarted(carried))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), detach_state(state)

    def _restarted(self, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        if state is None or not self.training or self.restart_probability == 0:
            return state
        batch_size = state[0].shape[1]
        restarts = torch.rand(batch_size, 1, device=state[0].device) < self.restart_probability
        return tuple(part.masked_fill(restarts, 0) for part in state)

    def compile(self) -> None:
        """Compile one time step of the recurrent layer; of the whole pass, every step would be in one huge graph."""
        self.network.recurrent_layer.compile()

    def pictures(self) -> dict[str, str]:
        """A text that the network writes and how its row scales change, as HTML (Figure 4); only for a HyperLSTM."""
        return {"text/row_scales": row_scales_page(self.network)} if shows_row_scales(self.network) else {}

    @torch.no_grad()
    def evaluate(
        self,
        windows: Iterable[tuple[Tensor, Tensor, bool]],
        total: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, float]:
        """Return {"loss": in nats per character, "bits_per_character": the same in bits} over all windows.

        The state is carried from window to window; targets of -100 are not counted.
        """
        was_training = self.training
        self.eval()
        # Loss, characters: on the device until the end, so that no window waits for a transfer.
        sums = torch.zeros(2, dtype=torch.float64, device=next(self.parameters()).device)
        state = None
        try:
            for inputs, targets, is_first in windows:
                logits, state = self.network(inputs, None if is_first else state)
                loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
                sums += torch.stack([loss.double(), (targets >= 0).sum().double()])
        finally:
            self.train(was_training)
        loss, characters = total(sums).tolist()
        return {"loss": loss / characters, self.metric.key: loss / characters / math.log(2)}


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[TextSplits, CharacterModelling]:
    """Build the splits and the task from the settings of a run."""
    dataset = without(settings["dataset"], "task", "name")
    restart_probability = dataset.pop("restart_probability", 0.0)
    with processes.first_before_others():  # so that one process downloads
        splits = build_text(dataset, **vars(processes))
    build_network = partial(character_model.build, settings["main_net"], settings["hypernet"], splits.vocabulary)
    torch.manual_seed(settings["seed"])
    return splits, CharacterModelling(build_within_memory(build_network), restart_probability)
