"""Sampling from a run, and what Figure 4 shows of it."""

import html
import re
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch

from data.text_sources import encode, readable, spelled
from hypernets import LSTM, HyperLSTM
from models.character_model import CharacterModel
from scripts.sample_text import draw
from training.tasks import text_samples
from training.trained import load_network

SIZES = {"hidden_size": 6, "num_layers": 2}
SMALL_HYPERLSTM = partial(HyperLSTM, hyper_size=4, embedding_size=2, **SIZES)


def small_model(make_layer=SMALL_HYPERLSTM, vocabulary="\n <ab"):
    torch.manual_seed(0)
    model = CharacterModel(make_layer, vocabulary, output_dropout=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


def sample(model, prompt, *arguments, **options):
    return text_samples.sample(model, encode(prompt, model.vocabulary).tolist(), *arguments, **options)


def test_most_likely_text_continues_the_prompt():
    model = small_model()
    text, _ = sample(model, "ab", 20, 0)
    assert text.startswith("ab") and len(text) == 22
    ids = torch.tensor([model.vocabulary.index(character) for character in text])[:, None]
    with torch.no_grad():
        likeliest = model(ids)[0].argmax(-1)
    assert torch.equal(ids[2:], likeliest[1:-1])


def test_draws_follow_temperature_and_seed():
    model = small_model()
    first, second, other = (sample(model, "a", 60, 1.0, seed=seed)[0] for seed in (0, 0, 1))
    assert first == second != other
    assert sample(model, "a", 60, 0.0, seed=0)[0] == sample(model, "a", 60, 0.001, seed=1)[0]
    hot = sample(model, "a", 400, 1000.0)[0]
    assert min(hot.count(character) for character in model.vocabulary) > 50  # of 80 each


def test_changes_of_the_row_scales():
    model = small_model()
    text, changes = sample(model, "ab", 8, 1.0)
    ids = torch.tensor([model.vocabulary.index(character) for character in text])[:, None]
    cell, scales = model.recurrent_layer.cells[-1], []
    with torch.no_grad():
        for end in range(1, len(text) + 1):
            _, state = model(ids[:end])
            scales.append(cell.row_scales(cell.embeddings(state.hyper_h[-1]))[0].view(4, 6))
    assert changes.shape == (10, 4) and not changes[0].any()
    for position in range(1, 10):
        expected = (scales[position] - scales[position - 1]).norm(dim=1)
        torch.testing.assert_close(changes[position], expected, rtol=1e-4, atol=1e-5)


def test_text_of_bytes():
    model = small_model(partial(LSTM, **SIZES), vocabulary="a\udca9\udcc3")
    text, changes = sample(model, spelled("é", model.vocabulary), 0, 1.0)
    assert readable(text) == "é" and len(text) == 2 and changes is None


def test_darkest_where_the_change_is_largest():
    page = text_samples.page("abc", torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 0.0]]))
    assert re.findall(r"opacity:(\S+?)\"", page) == ["0.10", "0.10", "0.55", "1.00", "1.00", "0.10"]
    assert text_samples.page("a", torch.zeros(1, 4)).count('"opacity:0.10"') == 4


def test_picture_is_darkest_where_the_change_is_largest():
    changes = torch.zeros(150, 4)
    changes[120, 2] = 3.0
    panels = draw("a" * 150, changes).axes
    bars = [panel.images[0].get_array() for panel in panels]
    assert [b.shape for b in bars] == [(4, 100), (4, 50)] and [len(panel.texts) for panel in panels] == [100, 50]
    assert not bars[0].any() and bars[1].sum() == bars[1][2, 20] == 1
    plt.close("all")


def test_command_writes_text_page_and_picture(call_script, text_runs, tmp_path):
    page, picture = tmp_path / "sample.html", tmp_path / "sample.png"
    options = ("--prompt", "the", "--length", 90, "--html", page, "--picture", picture)
    done = call_script("sample_text", text_runs[1], *options)
    assert done.returncode == 0, done.stderr
    text = done.stdout[:-1]
    assert text.startswith("the") and len(text) == 93
    assert text == sample(load_network(text_runs[1]), "the", 90, 0.8)[0]
    written = page.read_text(encoding="utf-8")
    shown = re.findall("<span>(.*?)<i.*?</span>", written)
    assert "".join(map(html.unescape, shown)) == "".join(map(text_samples.visible, text))
    assert written.count("<br>") == text.count("\n") and written.count("<i ") == 4 * len(text)
    assert plt.imread(picture).std() > 0
    assert "src=" not in written and "http" not in written  # all in one file


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("plain", ("--html", "sample.html"), ("hypernet=hyperlstm",)),
        ("plain", ("--picture", "sample.png"), ("hypernet=hyperlstm",)),
        ("images", (), ("neither a model of characters nor", "must first be published")),
        ("plain", ("--prompt", ""), ("at least one",)),
        ("plain", ("--prompt", "the", "--temperature", "-1"), ("temperature -1",)),
        ("plain", ("--prompt", "thX"), ("'X', at position 2 of the text of --prompt",)),
    ],
)
def test_mistakes(run, options, words, call_script, assert_one_line, text_runs, finished, tmp_path):
    path = {"plain": text_runs[0], "images": finished, "nothing": tmp_path / "nothing"}[run]
    done = call_script("sample_text", path, "--prompt", "the", *options)
    assert_one_line(done, *words, program="sample_text")
    assert not list(tmp_path.glob("sample.*"))
