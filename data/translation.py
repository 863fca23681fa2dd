"""Sentence pairs as subwords: batches of pairs of about one length, pure functions of (seed, step).

Shape legend
    S, T, B  subwords of the longest source and of the longest target of a batch, pairs
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.text import IGNORED
from data.translation_sources import Pairs
from data.upload import upload
from hypernets.errors import UserError

PADDING, UNKNOWN, BEGIN, END = range(4)  # ids of subwords that are no text
SENTENCES_READ = 1_000_000  # at most, from which subwords are learned; evenly spaced in a larger training split
POOL = 50  # batches whose pairs are sorted by length together


class Subwords:
    """A vocabulary of subwords that both languages share: byte-pair encoding, by sentencepiece."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)

    @classmethod
    def learn(cls, sentences: Sequence[str], vocabulary_size: int) -> "Subwords":
        """Learn the most frequent subwords of sentences; the same sentences always give the same subwords."""
        library, written = _sentencepiece(), io.BytesIO()
        step = -(-len(sentences) // SENTENCES_READ)
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences[::step]),
                model_writer=written,
                model_type="bpe",
                vocab_size=vocabulary_size,
                character_coverage=1.0,
                num_threads=1,  # so that nothing depends on who comes first
                minloglevel=2,
                **{"pad_id": PADDING, "unk_id": UNKNOWN, "bos_id": BEGIN, "eos_id": END},
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"sentencepiece cannot learn {vocabulary_size} subwords from the training text ({reason}); choose "
                "another dataset.vocabulary_size."
            ) from None
        return cls(written.getvalue())

    def __len__(self) -> int:
        return self._processor.vocab_size()

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """The ids of each sentence, int32 [subwords], without begin and end."""
        encoded: list[np.ndarray] = []
        for start in range(0, len(sentences), 10_000):  # the lists of a large corpus would not fit into memory
            part = self._processor.encode(list(sentences[start : start + 10_000]))
            encoded += [np.array(ids, dtype=np.int32) for ids in part]
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; those that are no text are left out."""
        return self._processor.decode([index for index in ids if index not in (PADDING, BEGIN, END)])


class Batch(NamedTuple):
    """Pairs of sentences; every source and every target ends in `END`."""

    source: Tensor  # ids, int64 [S, B], `PADDING` after the end
    inputs: Tensor  # ids, int64 [T, B]: `BEGIN`, then the target without its end
    targets: Tensor  # the ids that follow, int64 [T, B]; `IGNORED` after the end
    subwords: float  # targets to divide a sum by, so that the mean over processes is the mean over the global batch


class EvaluationBatch(NamedTuple):
    """Pairs to be evaluated."""

    batch: Batch
    references: list[str]  # the targets as text
    beams: tuple[int, ...]  # the numbers of beams with which to translate


class TrainingPairs:
    """A training split. An epoch is one pass in a random order; a batch has pairs of about one length.

    The order follows from (seed, epoch). Pairs are shuffled, sorted by length among `POOL` batches at a time, cut into
    batches, and these are shuffled. The ranks take contiguous shares of each batch. An epoch's last, incomplete batch
    is left out.

    Args:
        source, target: the ids of each sentence, int32 [subwords].
        batch_size: pairs in a batch over all ranks; a multiple of their number.
        seed: with the step, determines a batch completely.
        device, rank, world_size: as for images.

    Attributes:
        steps_per_epoch: batches in an epoch.
        examples_per_step: `batch_size`.
    """

    def __init__(
        self,
        source: Sequence[np.ndarray],
        target: Sequence[np.ndarray],
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size > len(source):
            raise UserError(
                f"batch_size is {batch_size}, but the training split has only {len(source)} pairs; choose less."
            )
        self.steps_per_epoch, self.examples_per_step = len(source) // batch_size, batch_size
        self._source, self._target, self._seed = source, target, seed
        self._lengths = [np.array([len(ids) for ids in side]) for side in (source, target)]
        self._place = device, rank, world_size
        self._epoch_order: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> Batch:
        """This rank's part of training batch `step` (0, 1, ...), with B = batch_size / world_size."""
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self._order(epoch)[position]
        device, rank, world_size = self._place
        whole = make_batch([self._source[i] for i in chosen], [self._target[i] for i in chosen])
        share = len(chosen) // world_size
        part = (upload(tensor[:, rank * share : (rank + 1) * share], device) for tensor in whole[:3])
        return Batch(*part, subwords=whole.subwords / world_size)

    def _order(self, epoch: int) -> np.ndarray:
        """The pairs of each batch of an epoch, [batches, batch_size]; kept until another epoch is asked for."""
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            draw, size = np.random.default_rng((self._seed, epoch)), self.examples_per_step
            order = draw.permutation(len(self._source))[: self.steps_per_epoch * size]
            pools = np.split(order, range(POOL * size, len(order), POOL * size))
            source, target = self._lengths
            order = np.concatenate([pool[np.lexsort((source[pool], target[pool]))] for pool in pools])
            self._epoch_order = epoch, draw.permutation(order.reshape(-1, size))
        return self._epoch_order[1]


class EvaluationPairs:
    """A split that is only evaluated: every pair once, in order; the ranks take contiguous shares."""

    def __init__(
        self,
        source: Sequence[np.ndarray],
        target: Sequence[np.ndarray],
        references: Sequence[str],
        *,
        beams: tuple[int, ...],
        batch_size: int = 100,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        share = slice(len(source) * rank // world_size, len(source) * (rank + 1) // world_size)
        self._pairs = list(zip(source[share], target[share], references[share], strict=True))
        self._beams, self._batch_size, self._device = beams, batch_size, device

    def pairs(self) -> Iterator[tuple[list[int], str]]:
        """The source, ids, and the target, text, of each pair of this rank's share."""
        for source, _, reference in self._pairs:
            yield source.tolist(), reference

    def evaluation_batches(self) -> Iterator[EvaluationBatch]:
        """Yield this rank's share; the last batch may be smaller than the others."""
        for start in range(0, len(self._pairs), self._batch_size):
            source, target, references = zip(*self._pairs[start : start + self._batch_size], strict=True)
            batch = make_batch(source, target)
            on_device = Batch(*(tensor.to(self._device) for tensor in batch[:3]), batch.subwords)
            yield EvaluationBatch(on_device, list(references), self._beams)


def make_batch(source: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> Batch:
    """Make a batch of pairs, on the CPU."""
    targets = padded(target, IGNORED)
    shifted = torch.cat([torch.full_like(targets[:1], BEGIN), targets[:-1]])
    inputs = shifted.where((shifted != IGNORED) & (shifted != END), PADDING)
    return Batch(padded(source, PADDING), inputs, targets, float((targets != IGNORED).sum()))


def padded(sentences: Sequence[np.ndarray], padding: int) -> Tensor:
    """The ids of sentences, each with `END`, side by side: int64 [longest, sentences]."""
    columns = np.full((max(map(len, sentences)) + 1, len(sentences)), padding, dtype=np.int64)
    for column, ids in enumerate(sentences):
        columns[: len(ids), column] = ids
        columns[len(ids), column] = END
    return torch.from_numpy(columns)


@dataclass(frozen=True)
class TranslationSplits:
    """The splits of one set of sentence pairs."""

    train: TrainingPairs
    validation: EvaluationPairs
    test: EvaluationPairs
    examples: Pairs  # the first pairs of the validation split, to be shown
    subwords: Subwords
    digest: str  # SHA-256 of the pairs and the subwords, by which a resume tells whether it reads the same


def _sentencepiece():
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            "Translation needs sentencepiece, which is not installed; pip install -r requirements-translation.txt."
        ) from None
    return sentencepiece
