"""Translation: an encoder-decoder of LSTM or HyperLSTM cells, judged by log perplexity and BLEU (section 4.6)."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.build import build_translation
from data.text import IGNORED
from data.translation import PADDING, Batch, EvaluationBatch, Subwords, TranslationSplits, padded
from data.translation_sources import Pairs
from hypernets import UserError
from hypernets.errors import require_number, without
from models import encoder_decoder
from training.distributed import Processes
from training.task import Metric, build_within_memory
from training.tasks.beam_search import translate

BEAMS = (1, 4)
BLEU_COUNTS = 10  # n-grams that are right and all, for n = 1, 2, 3, 4, and the lengths of translations and references


class Translation(nn.Module):
    """Cross-entropy on the subwords of translations, by an `EncoderDecoder`.

    Args:
        network: the network.
        subwords: what its ids stand for.
        label_smoothing: how much of a target's probability is spread over all subwords in training. Neither GNMT nor
            the paper smooths; NVIDIA's GNMT and most recipes for small corpora do, by 0.1.
        examples: sentences with their translations, which `pictures` shows beside the network's.
    """

    metric = Metric("log_perplexity", "log perplexity", digits=3)

    def __init__(self, network: nn.Module, subwords: Subwords, label_smoothing: float, examples: Pairs) -> None:
        super().__init__()
        require_number("main_net.label_smoothing", label_smoothing, least=0, below=1)
        self.network = network
        self.subwords = subwords
        self.label_smoothing = label_smoothing
        self.examples = examples

    def forward(self, batch: Batch, carried: None) -> tuple[Tensor, None]:
        """Return the mean loss of a batch in nats per subword of the targets, ends included, with smoothed labels."""
        logits = self.network(batch.source, batch.inputs)
        return _cross_entropy(logits, batch.targets, self.label_smoothing) / batch.subwords, carried

    def compile(self) -> None:
        """Compile one time step of each recurrent layer."""
        for layer in self.network.recurrent_layers():
            layer.compile()

    @torch.no_grad()
    def evaluate(
        self, batches: Iterable[EvaluationBatch], total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Return the loss, the log perplexity, which is the same, and BLEU for each number of beams of the batches.

        The loss is in nats per subword of the references, ends included, without smoothing. BLEU is that of sacrebleu
        with its defaults, on text as people write it: "bleu_greedy", "bleu_beam_4".
        """
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, subwords
        counts = torch.zeros(len(BEAMS), BLEU_COUNTS, dtype=torch.float64, device=device)
        try:
            for (source, inputs, targets, _), references, beams_of_batch in batches:
                loss = _cross_entropy(self.network(source, inputs), targets)
                sums += torch.stack([loss.double(), (targets != IGNORED).sum().double()])
                for beams in beams_of_batch:
                    translated = [self.subwords.decode(ids) for ids in translate(self.network, source, beams)]
                    counts[BEAMS.index(beams)] += torch.tensor(bleu_counts(translated, references), device=device)
        finally:
            self.train(was_training)
        (loss, subwords), counts = total(torch.cat([sums, counts.flatten()])).cpu().split([2, counts.numel()])
        values = {"loss": float(loss / subwords), self.metric.key: float(loss / subwords)}
        for beams, of_beams in zip(BEAMS, counts.view(len(BEAMS), -1).tolist(), strict=True):
            if of_beams[-1]:  # some reference has words: a split may be translated with one of the numbers only
                values["bleu_greedy" if beams == 1 else f"bleu_beam_{beams}"] = bleu(of_beams)
        return values

    def pictures(self) -> dict[str, str]:
        """Some sentences of the validation split, their translations and the network's, as a page of HTML."""
        return {"text/translations": page(*self.examples, self.translated(self.examples[0], beams=4))}

    def translated(self, sentences: Sequence[str], beams: int) -> list[str]:
        """Translate sentences. The network is in evaluation mode meanwhile."""
        was_training = self.training
        self.eval()
        source = padded(self.subwords.encode(sentences), PADDING).to(next(self.parameters()).device)
        ids = translate(self.network, source, beams)
        self.train(was_training)
        return [self.subwords.decode(each) for each in ids]


def bleu_counts(translations: Sequence[str], references: Sequence[str]) -> list[float]:
    """What BLEU is computed from, which adds up over parts of a text (see BLEU_COUNTS)."""
    score = _bleu_metric().corpus_score(list(translations), [list(references)])
    return [float(count) for count in (*score.counts, *score.totals, score.sys_len, score.ref_len)]


def bleu(counts: Sequence[float]) -> float:
    """BLEU of sacrebleu in percent from the counts of `bleu_counts`."""
    right, all_, (length, of_references) = counts[:4], counts[4:8], map(int, counts[8:])
    whole = [[int(count) for count in each] for each in (right, all_)]
    return _bleu_metric().compute_bleu(*whole, length, of_references, smooth_method="exp").score


def _bleu_metric():
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise UserError(
            "Translation needs sacrebleu, which is not installed; pip install -r requirements-translation.txt."
        ) from None
    return BLEU()


def page(sentences: Sequence[str], references: Sequence[str], translations: Sequence[str]) -> str:
    """Sentences with two translations each, as a page of HTML that needs no other file."""
    lines = [
        f"<p>{html.escape(sentence)}<br><i>{html.escape(reference)}</i><br><b>{html.escape(translation)}</b></p>"
        for sentence, reference, translation in zip(sentences, references, translations, strict=True)
    ]
    title = "Sentences, their translations (italic) and the network's (bold), by four beams"
    return f'<!DOCTYPE html><meta charset="utf-8"><title>{title}</title><p>{title}</p>{"".join(lines)}\n'


def _cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def build(settings: Mapping[str, Any], processes: Processes) -> tuple[TranslationSplits, Translation]:
    """Build the splits and the task from the settings of a run."""
    _bleu_metric()  # refuses now rather than at the first validation
    dataset = without(settings["dataset"], "task", "name")
    splits = build_translation(dataset, seed=settings["seed"], **vars(processes))
    main_net = dict(settings["main_net"])
    label_smoothing = main_net.pop("label_smoothing", 0.0)
    sizes = len(splits.subwords), PADDING
    torch.manual_seed(settings["seed"])
    network = build_within_memory(partial(encoder_decoder.build, main_net, settings["hypernet"], *sizes))
    return splits, Translation(network, splits.subwords, label_smoothing, splits.examples)
