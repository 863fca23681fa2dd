"""Lines that trained models write, as PNG and SVG."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from training.tasks.handwriting_samples import write
from training.trained import load_network


@pytest.fixture(scope="module")
def stroke_runs(make_launcher, tmp_path_factory) -> list[Path]:
    """The directories of two finished runs on scribbles: of an LSTM, and of a HyperLSTM."""
    launcher = make_launcher(tmp_path_factory.mktemp("stroke_runs"))
    shared = ["dataset=scribbles", "dataset.lines=20", "dataset.batch_size=4", "main_net=lstm", "steps=2"]
    for name, hypernet in (("plain", ["hypernet=none"]), ("hyper", ["hypernet=hyperlstm", "hypernet.hyper_size=4"])):
        place = [f"runs={launcher.runs}", f"run={name}", "logger=none", "device=cpu", "main_net.hidden_size=6"]
        launcher.succeed(*shared, *hypernet, *place)
    return [launcher.runs / "plain", launcher.runs / "hyper"]


def test_two_runs_side_by_side(call_script, stroke_runs, tmp_path):
    size = ("--lines", 2, "--steps", 40, "--seed", 3)
    for name in ("samples.png", "samples.svg"):
        done = call_script("sample_handwriting", *stroke_runs, *size, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
    pixels = imread(tmp_path / "samples.png")[..., :3]
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    assert all((half.max(axis=2) < 0.3).any() for half in (left, right)), "ink in both columns"
    assert [bool((half[..., 2] - half[..., 0] > 0.3).any()) for half in (left, right)] == [False, True], "strips"
    drawing = (tmp_path / "samples.svg").read_text()
    assert drawing.count("LineCollection") == 4 and "<image" in drawing and "lstm_6, hyperlstm" in drawing


def test_what_a_model_writes_has_the_units_of_its_data(stroke_runs):
    model = load_network(stroke_runs[0])
    assert model.offset_mean[0] > 5 and model.offset_std[1] > 10  # of the scribbles
    offsets = np.diff(write(model, 500).points[:, 0])
    # After two steps of training, about the standard normal distribution of the normalised offsets.
    assert offsets.std() == pytest.approx(model.offset_std[0].item(), rel=0.3)


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("images", (), ("neither a model of characters nor", "must first be published")),
        ("text", (), ("does not write by hand",)),
        ("plain", ("--lines", 0), ("--lines is 0",)),
        ("plain", ("--bias", -1), ("bias -1",)),
        ("plain", ("--lines", 1, "--steps", 5, "--output", "sample.xyz"), ("sample.xyz", "xyz")),
    ],
)
def test_mistakes(run, options, words, assert_refused, stroke_runs, text_runs, finished):
    path = {"plain": stroke_runs[0], "images": finished, "text": text_runs[0]}[run]
    assert_refused("sample_handwriting", path, *options, words=words)
