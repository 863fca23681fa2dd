"""Sampling from a run, and what Figure 4 shows of it."""

import html
import importlib.util
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from hypernets import LSTM, HyperLSTM
from models import CharacterModel
from training import checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sample_text = load_script("sample_text")

CONFIG = """
main_net: {name: lstm, label: lstm_6, hidden_size: 6, num_layers: 2, layer_norm: true, input_dropout: 0.5,
           output_dropout: 0.5, recurrent_dropout: 0.5}
hypernet: {name: hyperlstm, hyper_size: 4, embedding_size: 2, hyper_recurrent_dropout: 0.5}
"""
SIZES = {"hidden_size": 6, "num_layers": 2}
SMALL_HYPERLSTM = partial(HyperLSTM, hyper_size=4, embedding_size=2, **SIZES)


def small_model(make_layer=SMALL_HYPERLSTM, vocabulary="\n <ab"):
    torch.manual_seed(0)
    model = CharacterModel(make_layer, vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def run(tmp_path):
    """A run that has saved a best model."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    checkpoint.save_best(tmp_path, {"step": 1, "main_network": small_model().state_dict()})
    return tmp_path


def test_model_of_a_run(run):
    model = sample_text.load_model(run)
    ids = torch.randint(5, (7, 2))
    assert model.vocabulary == "\n <ab" and torch.equal(model(ids)[0], small_model()(ids)[0])


def sample(model, prompt, *arguments, **options):
    return sample_text.sample(
        model, sample_text.encode(prompt, model.vocabulary, "the prompt").tolist(), *arguments, **options
    )


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
    hot = [sample(model, "a", 400, 1000.0)[0].count(character) for character in model.vocabulary]
    assert min(hot) > 50  # of 80 each


def test_changes_of_the_row_scales():
    model = small_model()
    text, changes = sample(model, "ab", 8, 1.0)
    ids = torch.tensor([model.vocabulary.index(character) for character in text])[:, None]
    cell, scales = model.recurrent_layer.cells[-1], []
    with torch.no_grad():
        for end in range(1, len(text) + 1):
            _, state = model(ids[:end])
            scales.append(cell.row_scales(*cell.embeddings(state.hyper_h[-1]))[0].view(4, 6))
    assert changes.shape == (10, 4) and not changes[0].any()
    for position in range(1, 10):
        expected = (scales[position] - scales[position - 1]).norm(dim=1)
        torch.testing.assert_close(changes[position], expected, rtol=1e-4, atol=1e-5)


def test_text_of_bytes():
    model = small_model(partial(LSTM, **SIZES), vocabulary="a\udca9\udcc3")
    text, changes = sample(model, sample_text.spelled("é", model.vocabulary), 0, 1.0)
    assert sample_text.readable(text) == "é" and len(text) == 2 and changes is None


def test_mistakes():
    model = small_model()
    for arguments in (("", 5, 1.0), ("a", -1, 1.0), ("a", 5, -0.1), ("a", 5, float("nan"))):
        with pytest.raises(ValueError, match="prompt needs at least one"):
            sample(model, *arguments)
    with pytest.raises(ValueError, match="'x', at position 1 of the prompt"):
        sample(model, "ax", 5, 1.0)


def test_darkest_where_the_change_is_largest():
    shades = sample_text.shades(torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 0.0]]))
    assert shades == [["#e8eff8"] * 2, ["#7890b2", "#08306b"], ["#08306b", "#e8eff8"]]
    assert sample_text.shades(torch.zeros(1, 4)) == [["#e8eff8"] * 4]


def test_command_writes_text_picture_and_page(run, tmp_path, monkeypatch, capsys):
    picture, page = tmp_path / "sample.png", tmp_path / "sample.html"
    arguments = ["sample_text.py", str(run), "--prompt", "a<b", "--length", "90"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--figure", str(picture), "--html", str(page)])
    sample_text.main()
    text = capsys.readouterr().out[:-1]
    assert text.startswith("a<b") and len(text) == 93
    assert picture.read_bytes().startswith(b"\x89PNG")
    written = page.read_text(encoding="utf-8")
    shown = re.findall("<span>(.*?)<i.*?</span>", written)
    assert "".join(map(html.unescape, shown)) == "".join(map(sample_text.visible, text))
    assert written.count("<br>") == text.count("\n") > 0 and written.count("<i ") == 4 * len(text)
    assert "src=" not in written and "http" not in written  # all in one file


def test_run_without_row_scales_run_of_images_and_folder_without_a_run(run, image_run, tmp_path, monkeypatch):
    (run / "config.yaml").write_text(CONFIG.split("hypernet:")[0] + "hypernet: {name: none}")
    model = small_model(partial(LSTM, layer_norm=True, **SIZES))
    checkpoint.save_best(run, {"step": 1, "main_network": model.state_dict()})
    nothing = tmp_path / "nothing"
    mistakes = ((run, "hypernet=hyperlstm"), (image_run, "does not write text"), (nothing, "There is no run"))
    for folder, words in mistakes:
        command = ["sample_text.py", str(folder), "--prompt", "a", "--figure", str(tmp_path / "sample.png")]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit, match=words):
            sample_text.main()
    assert not (tmp_path / "sample.png").exists()
