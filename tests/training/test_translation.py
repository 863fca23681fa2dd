"""Translation: sentence pairs and subwords, the encoder-decoder, beam search, BLEU, and runs."""

import itertools
import re
import shutil
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data.build import build_translation
from data.text import IGNORED
from data.translation import BEGIN, END, PADDING, EvaluationPairs, Subwords, TrainingPairs, make_batch
from data.translation_sources import wmt14
from hypernets import UserError
from models import encoder_decoder
from training import trained
from training.run import read_result
from training.tasks.beam_search import LENGTH_EXPONENT, translate
from training.tasks.translation import BEAMS, Translation, bleu, bleu_counts

MAIN_NET = {"kind": "encoder_decoder", "hidden_size": 8, "num_layers": 2, "dropout": 0.0, "layer_norm": False}
MAIN_NET |= {"tied_embeddings": True}
HYPERNETS = ({"kind": "none"}, {"kind": "hyperlstm", "hyper_size": 4, "embedding_size": 3})
WORDS = {"one": "un", "two": "deux", "three": "trois", "red": "rouge", "blue": "bleu", "dog": "chien", "cat": "chat"}


def small_network(hypernet=HYPERNETS[0], vocabulary_size=11, **changes):
    torch.manual_seed(0)
    network = encoder_decoder.build({**MAIN_NET, **changes}, hypernet, vocabulary_size, PADDING)
    with torch.no_grad():  # far from the start, at which all translations are much alike
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network.eval()


def random_sentences(lengths, vocabulary_size=11, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(END + 1, vocabulary_size, size=length).astype(np.int32) for length in lengths]


def write_tatoeba(root, pairs=120):
    """Made-up pairs, each word of a sentence translated by itself; some sentences occur twice."""
    folder = root / "translation" / "fra-eng"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = []
    for _ in range(pairs):
        words = draw.choice(list(WORDS), size=draw.integers(1, 5))
        lines.append(f"{' '.join(words)}.\t{' '.join(map(WORDS.get, words))}.\tby somebody")
    (folder / "fra.txt").write_text("\n".join(lines) + "\n")
    return lines


SETTINGS = {"kind": "tatoeba", "vocabulary_size": 40, "longest": 80, "batch_size": 8}
SETTINGS |= {"validation_size": 10, "test_size": 4, "split_seed": 0}


def small_splits(root, **changes):
    return build_translation(SETTINGS | {"root": root} | changes, seed=0, device="cpu", rank=0, world_size=1)


# Data


def test_a_batch_holds_each_sentence_and_its_end():
    source, target = random_sentences([3, 1]), random_sentences([2, 4], seed=1)
    batch = make_batch(source, target)
    assert batch.source.t().tolist() == [[*source[0], END], [*source[1], END, PADDING, PADDING]]
    assert batch.targets.t().tolist() == [[*target[0], END, IGNORED, IGNORED], [*target[1], END]]
    assert batch.inputs.t().tolist() == [[BEGIN, *target[0], PADDING, PADDING], [BEGIN, *target[1]]]
    assert batch.subwords == 8


def test_an_epoch_has_every_pair_once_in_batches_of_about_one_length():
    source = [np.array([index] * length) for index, length in enumerate(np.random.default_rng(0).integers(1, 40, 200))]
    pairs = TrainingPairs(source, source, batch_size=10, seed=1)
    epochs = [[pairs.batch(step).source for step in range(20 * epoch, 20 * epoch + 20)] for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(index for batch in batches for index in batch[0].tolist()) == list(range(200))
        lengths = [(batch != PADDING).sum(dim=0) for batch in batches]
        assert sum(int(each.max() - each.min()) for each in lengths) / 20 < 6  # of 39
    assert not torch.equal(epochs[0][0], epochs[1][0])
    again = TrainingPairs(source, source, batch_size=10, seed=1).batch(25)
    assert torch.equal(again.source, epochs[1][5])
    shares = [
        TrainingPairs(source, source, batch_size=10, seed=1, rank=rank, world_size=2).batch(25) for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([share.source for share in shares], dim=1), again.source)
    assert shares[0].subwords == again.subwords / 2


def test_tatoeba_is_split_by_the_english_side(tmp_path):
    lines = write_tatoeba(tmp_path)
    splits = small_splits(tmp_path)
    train = {splits.subwords.decode(ids.tolist()) for ids in splits.train._source}
    held_out = {
        splits.subwords.decode(source) for part in (splits.validation, splits.test) for source, _ in part.pairs()
    }
    assert len(held_out) == 14 and not train & held_out
    assert train | held_out == {line.split("\t")[0] for line in lines}
    assert small_splits(tmp_path).digest == splits.digest != small_splits(tmp_path, split_seed=1).digest


def test_subwords_spell_what_they_have_learned():
    sentences = [f"{first} {second} à l'été" for first in WORDS for second in WORDS.values()]
    subwords = Subwords.learn(sentences, 40)
    assert len(subwords) == 40 and Subwords.learn(sentences, 40).model == subwords.model
    assert [subwords.decode([BEGIN, *ids.tolist(), END, PADDING]) for ids in subwords.encode(sentences)] == sentences


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def multi30k_of(train_en=b"a\n" * 29_000, train_fr=b"a\n" * 29_000):
    def make(root):
        folder = root / "translation" / "multi30k"
        lines = {"val": b"a\n" * 1014, "test_2016_flickr": b"a\n" * 1000}
        for language, train in (("en", train_en), ("fr", train_fr)):
            for name, content in {"train": train, **lines}.items():
                write(folder / f"{name}.{language}", content)

    return make


@pytest.mark.parametrize(
    ("make", "changes", "word"),
    [
        (lambda root: None, {}, r"no .*fra\.txt"),
        (lambda root: write(root / "translation/fra-eng/fra.txt", b"Go.\tVa !\nHi.\n"), {}, "Line 2 of .*'Hi.'"),
        (lambda root: write(root / "translation/fra-eng/fra.txt", b"Go.\tVa\xff"), {}, "Line 1 of .*not UTF-8"),
        (write_tatoeba, {"test_size": 500}, "hold out 510 sentences"),
        (write_tatoeba, {"vocabulary_size": 4000}, "cannot learn 4000 subwords"),
        (write_tatoeba, {"longest": 1}, "longest is 1"),
        (write_tatoeba, {"batch_size": 500}, "batch_size is 500"),
        (lambda root: None, {"kind": "multi30k"}, r"lacks train\.en, train\.fr, val\.en"),
        (multi30k_of(train_en=b"a\n" * 28_999), {"kind": "multi30k"}, "28,999 lines and .*29,000"),
        (multi30k_of(*2 * [b"a\n" * 28_999]), {"kind": "multi30k"}, "has 28,999 lines and Multi30k 29,000"),
        (lambda root: None, {"kind": "wmt14"}, r"WMT'14.* lacks train\.en"),
    ],
)
def test_bad_data_is_refused(tmp_path, make, changes, word):
    make(tmp_path)
    settings = SETTINGS | {"root": tmp_path} | changes
    if settings["kind"] != "tatoeba":
        settings = {key: value for key, value in settings.items() if not key.endswith(("n_size", "t_size", "_seed"))}
    with pytest.raises(UserError, match=word):
        build_translation(settings, seed=0, device="cpu", rank=0, world_size=1)


@pytest.mark.parametrize("library", ["sentencepiece", "sacrebleu.metrics"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"{library.partition('.')[0]}.*requirements-translation"):
        write_tatoeba(tmp_path)
        small_splits(tmp_path)
        bleu_counts(["a"], ["a"])


# The network


@pytest.mark.parametrize("hypernet", HYPERNETS, ids=lambda each: each["kind"])
@pytest.mark.parametrize("num_layers", [2, 3])
def test_a_step_at_a_time_and_beside_longer_sentences_is_the_same(hypernet, num_layers):
    network = small_network(hypernet, num_layers=num_layers)
    source, target = random_sentences([3, 7, 1]), random_sentences([4, 2, 6], seed=1)
    whole = make_batch(source, target)
    logits = network(whole.source, whole.inputs)
    torch.testing.assert_close(network.train()(whole.source, whole.inputs), logits)  # the layers' own loop
    network.eval()
    for column in range(3):
        single = make_batch(source[column : column + 1], target[column : column + 1])
        memory, states, steps = network.encode(single.source), None, []
        for ids in single.inputs:
            step, states = network.decode(ids[None], memory, states)
            steps.append(step)
        torch.testing.assert_close(torch.cat(steps)[:, 0], logits[: len(steps), column])


def test_the_plan_of_gnmt():
    """The sizes of each layer, the residual sums, and one table for both languages and the softmax."""
    network = small_network(num_layers=3)
    assert [layer.input_size for layer in network.recurrent_layers()] == [8, 8, 16, 8, 8, 16, 16]
    assert network.softmax.weight is network.source_embedding.weight is network.target_embedding.weight
    untied = small_network(num_layers=3, tied_embeddings=False)
    count = [sum(parameter.numel() for parameter in each.parameters()) for each in (network, untied)]
    assert count[1] - count[0] == 2 * 11 * 8
    silent = small_network(num_layers=3)
    for layer in (silent.encoder_layers[1], *silent.decoder_layers):
        for cell in layer.cells:
            torch.nn.init.zeros_(cell.weight_x), torch.nn.init.zeros_(cell.weight_h), torch.nn.init.zeros_(cell.bias)
    # Layers above that write zeros pass on what is below: the logits are those of the first decoder layer.
    batch = make_batch(random_sentences([3]), random_sentences([4], seed=1))
    below, _ = silent.first_decoder_layer(8**0.5 * silent.target_embedding(batch.inputs))
    torch.testing.assert_close(silent(batch.source, batch.inputs), silent.softmax(below))


@pytest.mark.parametrize("tied", [False, True])
def test_cells_read_entries_of_about_one_and_logits_start_small(tied):
    torch.manual_seed(0)
    changes = {"hidden_size": 256, "tied_embeddings": tied}
    network = encoder_decoder.build({**MAIN_NET, **changes}, HYPERNETS[0], 100, PADDING)
    read = []
    for layer in network.forward_layer, network.first_decoder_layer:
        layer.register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0].std().item()))
    ids = torch.arange(END + 1, 100)[:, None]
    logits = network(ids, ids)
    assert read == pytest.approx([1, 1], rel=0.05)
    assert logits.std() < 2


def test_attention_is_a_mean_of_what_is_there():
    attention = encoder_decoder.Attention(4, 3, 5)
    values = torch.randn(2, 6, 3)
    is_text = torch.arange(6) < torch.tensor([[6], [2]])
    memory = encoder_decoder.Memory(values, attention.key(values), is_text)
    queries = torch.randn(7, 2, 4)
    context = attention(queries, memory)
    for t, b in itertools.product(range(7), range(2)):
        there = values[b, : int(is_text[b].sum())]
        scores = torch.stack(
            [attention.score(torch.tanh(attention.query(queries[t, b]) + attention.key(v))) for v in there]
        )
        torch.testing.assert_close(context[t, b], (scores.softmax(0) * there).sum(0))


@pytest.mark.parametrize(
    ("changes", "hypernet", "word"),
    [
        ({"kind": "lstm"}, HYPERNETS[0], "'lstm' cannot translate"),
        ({}, {"kind": "static"}, "hypernet=none or hypernet=hyperlstm"),
        ({"num_layers": 1}, HYPERNETS[0], "num_layers is 1"),
        ({"dropout": 1.0}, HYPERNETS[0], "dropout is 1.0"),
        ({"tied_embeddings": 1}, HYPERNETS[0], "tied_embeddings is 1"),
        ({"width": 2}, HYPERNETS[0], "main_net.width"),
        ({}, HYPERNETS[1] | {"form": "full"}, "hypernet.form"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, hypernet, word):
    with pytest.raises(UserError, match=word):
        small_network(hypernet, **changes)


# Search and BLEU


class History(NamedTuple):
    """The state of a `Babbler`: a number for all that it has read, [B]."""

    code: torch.Tensor


class Babbler:
    """A network whose next subword, of three that are text, depends on all subwords before it, at random."""

    def __init__(self, seed):
        draw = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(101, 7, generator=draw)
        self.logits[:, END] -= 2  # or the best translation would be empty

    def encode(self, source):
        return History(torch.zeros(source.shape[1], dtype=torch.int64))

    def decode(self, ids, memory, states):
        code = memory.code if states is None else states[0].code
        code = (7 * code + ids[0]) % 101
        return self.logits[code][None], [History(code)]

    def score(self, ids):
        memory, states, likelihood = self.encode(torch.zeros(1, 1)), None, 0.0
        for before, after in zip([BEGIN, *ids], [*ids, END], strict=True):
            logits, states = self.decode(torch.tensor([[before]]), memory, states)
            likelihood += logits[0, 0].log_softmax(-1)[after].item()
        return likelihood / ((5 + len(ids) + 1) / 6) ** LENGTH_EXPONENT


def test_beam_search_finds_the_best_translation_where_greed_does_not():
    source, greedily = torch.full((1, 1), END), 0  # time for 11 subwords and their end
    for seed in range(5):
        network = Babbler(seed)
        possible = (list(ids) for length in range(7) for ids in itertools.product((4, 5, 6), repeat=length))
        best = max(possible, key=network.score)
        assert len(best) < 6
        assert translate(network, source, beams=300) == [best]
        greedily += translate(network, source, beams=1) == [best]
    assert greedily < 5


def test_one_beam_is_greedy_and_sentences_do_not_see_each_other():
    network = small_network()
    source = random_sentences([3, 7, 1])
    batch = make_batch(source, source)
    together = translate(network, batch.source, beams=1)
    for sentence, found in zip(source, together, strict=True):
        alone = make_batch([sentence], [sentence]).source
        memory, ids, states = network.encode(alone), [], None
        while len(ids) < 2 * (len(sentence) + 1) + 10:
            logits, states = network.decode(torch.tensor([[ids[-1] if ids else BEGIN]]), memory, states)
            logits[..., :END] = -torch.inf
            if (best := int(logits.argmax())) == END:
                break
            ids.append(best)
        assert found == ids[: 2 * (len(sentence) + 1) + 9]  # the last subword that there is time for is the end
        assert translate(network, alone, beams=4) == [translate(network, batch.source, beams=4)[together.index(found)]]


def test_bleu_of_parts_adds_up_to_that_of_the_whole():
    from sacrebleu import corpus_bleu

    references = ["A dog runs on the grass.", "Two men are talking to a woman.", "A red car."]
    translations = ["A dog is running on the grass.", "Two men talk to a woman.", "A red car."]
    parts = [np.array(bleu_counts(translations[part], references[part])) for part in (slice(0, 1), slice(1, 3))]
    assert bleu(sum(parts).tolist()) == pytest.approx(corpus_bleu(translations, [references]).score)


def test_evaluation_counts_every_subword_once(tmp_path):
    write_tatoeba(tmp_path)
    splits = small_splits(tmp_path)
    network = small_network(vocabulary_size=40, dropout=0.5).train()
    task = Translation(network, splits.subwords, label_smoothing=0.1, examples=splits.examples)
    values = task.evaluate(splits.test.evaluation_batches())
    assert (
        task.training and list(values) == ["loss", "log_perplexity", "bleu_greedy", "bleu_beam_4"] and BEAMS == (1, 4)
    )
    pairs, likelihood, subwords = splits.test._pairs, 0.0, 0
    task.eval()
    for source, target, _ in pairs:
        batch = make_batch([source], [target])
        chosen = network(batch.source, batch.inputs)[:, 0].log_softmax(-1).gather(1, batch.targets)
        likelihood, subwords = likelihood + chosen.sum().item(), subwords + len(target) + 1
    assert values["log_perplexity"] == pytest.approx(-likelihood / subwords, rel=1e-5)
    assert list(task.evaluate(splits.validation.evaluation_batches())) == ["loss", "log_perplexity", "bleu_greedy"]
    small = EvaluationPairs(*zip(*pairs, strict=True), beams=(1, 4), batch_size=3)
    assert task.evaluate(small.evaluation_batches()) == pytest.approx(values, rel=1e-5)
    (page,) = task.pictures().values()
    assert page.count("<i>") == 10


# Runs


def small_run(launcher, root, *overrides):
    """The command line of a small HyperLSTM run; an epoch has about ten steps."""
    data = [f"dataset.{key}={value}" for key, value in SETTINGS.items() if key != "kind"]
    return [
        *("dataset=tatoeba", "main_net=encoder_decoder", "main_net.hidden_size=16", "hypernet=hyperlstm"),
        *("hypernet.hyper_size=6", "logger=none", "device=cpu", f"runs={launcher.runs}", f"dataset.root={root}"),
        *(*data, "steps=24", "log_every=2", "validate_every=10", "checkpoint_every=7", "schedule.peak=0.01"),
        *overrides,
    ]


def test_a_run_goes_on_bitwise(launcher, tmp_path, assert_same_run, monkeypatch):
    write_tatoeba(tmp_path)
    launcher.succeed(*small_run(launcher, tmp_path))
    whole = launcher.only_run()
    result = read_result(whole)
    assert {"test_log_perplexity", "test_bleu_greedy", "test_bleu_beam_4", "validation_log_perplexity"} <= set(result)
    run = shutil.copytree(whole, tmp_path / "other" / "interrupted")
    (run / "result.json").unlink()
    (run / "checkpoint.previous.pt").replace(run / "checkpoint.pt")
    assert 0 < torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 24
    launcher.succeed("-r", str(run))
    assert_same_run(whole, run)
    assert (run / "pictures" / "text_translations.html").read_text(encoding="utf-8").count("<i>") == 10

    done = launcher.succeed(str(run), "--number", "2", program="scripts/translate.py")
    sentences = [line[2:] for line in done.stdout.splitlines() if line.startswith("- ")]
    assert len(sentences) == 2 and done.stdout.count("**") == 4
    own = launcher.succeed(str(run), "--text", *sentences, program="scripts/translate.py").stdout
    assert re.findall(r"\*\*.*\*\*", own) == re.findall(r"\*\*.*\*\*", done.stdout)

    monkeypatch.setattr(trained, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("HYPERNETS_DATA", str(tmp_path))
    launcher.succeed(str(run), "published", program="scripts/publish_weights.py")
    assert launcher.succeed("published", "--text", *sentences, program="scripts/translate.py").stdout == own


def test_wmt14_leaves_out_pairs_with_an_empty_side(tmp_path):
    folder = tmp_path / "translation"
    lines = {"wmt14/train": (["a", "", "b"], ["A", "X", "B"]), "wmt14/newstest2013": (["c"], ["C"])}
    lines |= {"newstest2014/newstest2014": (["d"], ["D"])}
    for name, pair in lines.items():
        for language, sentences in zip(("en", "fr"), pair, strict=True):
            path = folder / f"{name}.{language}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{sentence}\n" for sentence in sentences))
    pairs = wmt14(tmp_path)
    assert pairs.train == (["a", "b"], ["A", "B"])
    assert (pairs.validation, pairs.test) == ((["c"], ["C"]), (["d"], ["D"]))
