"""Text: whole splits in memory, windows of parallel streams that are pure functions of the step.

Shape legend
    T, B     characters in a window, streams
    N        characters in the split
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hypernets.errors import UserError

IGNORED = -100  # a target that is not counted: the one that PyTorch's cross-entropy leaves out


class Window(NamedTuple):
    """The next T characters of each of B streams."""

    inputs: Tensor  # ids, int64 [T, B]
    targets: Tensor  # the ids that follow them, int64 [T, B]; `IGNORED` where a prediction is not counted
    is_first: bool  # the streams begin here, so that the state is zero; otherwise they go on from the window before


class TrainingStreams:
    """A training text, cut into parallel streams of equal length that are read side by side (sections 4.3, 4.4).

    There is no shuffling: an epoch is one pass over the streams, each from its beginning. The ranks take contiguous
    shares of the streams. Leftover characters at the end of the text, and of each stream, are not used.

    Args:
        ids: integers [N], below the size of the vocabulary.
        batch_size: streams over all ranks; a multiple of their number.
        sequence_length: characters in a window, over which gradients go back in time.
        device: where the text is held and windows are made.
        rank, world_size: this process's place in data-parallel training.

    Attributes:
        steps_per_epoch: windows in an epoch.
        examples_per_step: characters in a window over all ranks.
    """

    def __init__(
        self,
        ids: np.ndarray,
        *,
        batch_size: int,
        sequence_length: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        stream_length = (len(ids) - 1) // batch_size  # inputs; the last one's target is one further
        if stream_length < sequence_length:
            raise UserError(
                f"The training text has {len(ids)} characters, too few for a batch_size of {batch_size} streams with a "
                f"sequence_length of {sequence_length}, which need {batch_size * sequence_length + 1}; "
                "choose a smaller batch_size or sequence_length, or a longer text."
            )
        self.steps_per_epoch = stream_length // sequence_length
        self.examples_per_step = batch_size * sequence_length

        share = batch_size // world_size
        streams = torch.arange(rank * share, (rank + 1) * share)
        first_window = torch.arange(sequence_length + 1)[:, None] + streams * stream_length
        self._sequence_length = sequence_length
        self._first_window = first_window.to(device)
        self._ids = torch.tensor(ids).to(device)

    def batch(self, step: int) -> Window:
        """This rank's part of training window `step` (0, 1, ...), with B = batch_size / world_size.

        The ranks' parts, side by side in rank order, are exactly the window of a single process.
        """
        position = step % self.steps_per_epoch
        ids = self._ids[self._first_window + position * self._sequence_length].long()
        return Window(ids[:-1], ids[1:], is_first=position == 0)


class EvaluationStreams:
    """A text to be evaluated: one pass that predicts every character except the first exactly once.

    With one stream, the state is carried over the whole text, which is how the paper evaluates. With more, the text is
    cut into parts that are read side by side. Each except the first begins by reading the `warm_up` characters before
    its own, whose predictions are not counted: its state is then nearly that of the single pass, in a fraction of the
    time. The ranks take contiguous shares of the streams; a share may be empty.

    Args:
        ids: integers [N], at least two.
        streams: number of streams; fewer are used where their own parts would be shorter than the warm-up.
        warm_up: characters that each stream except the first reads before its own.
        window: T; it changes only how much memory a pass takes.
        device, rank, world_size: as for `TrainingStreams`.
    """

    def __init__(
        self,
        ids: np.ndarray,
        *,
        streams: int = 1,
        warm_up: int = 1000,
        window: int = 500,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        predictions = len(ids) - 1
        warm_up = min(warm_up, predictions)
        streams = max(1, min(streams, predictions // warm_up - 1))
        # The first stream counts all it reads: length + (streams - 1) * (length - warm_up) >= predictions.
        self._length = -(-(predictions + (streams - 1) * warm_up) // streams)
        self._warm_up = warm_up
        self._window = window
        self._streams = torch.arange(streams * rank // world_size, streams * (rank + 1) // world_size, device=device)
        self._ids = torch.tensor(ids).to(device)

    def evaluation_batches(self) -> Iterator[Window]:
        """Yield the windows of this rank's streams in order; the last may be shorter than the others."""
        if not len(self._streams):
            return
        last = len(self._ids) - 1
        for start in range(0, self._length, self._window):
            offset = torch.arange(start, min(start + self._window, self._length), device=self._ids.device)[:, None]
            position = offset + self._streams * (self._length - self._warm_up)
            targets = self._ids[(position + 1).clamp(max=last)].long()
            counted = (position < last) & ((offset >= self._warm_up) | (self._streams == 0))
            yield Window(self._ids[position.clamp(max=last)].long(), targets.where(counted, IGNORED), start == 0)


@dataclass(frozen=True)
class TextSplits:
    """The splits of one text."""

    train: TrainingStreams
    validation: EvaluationStreams
    test: EvaluationStreams
    vocabulary: str  # the characters that the ids 0, 1, ... stand for; see data/text_sources.py for bytes
    digest: str  # SHA-256 of the text, by which a resume tells whether it reads the same
