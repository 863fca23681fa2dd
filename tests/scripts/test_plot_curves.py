"""The curves of runs as a picture (Figure 6)."""

import matplotlib.pyplot as plt
from matplotlib.image import imread

from scripts.plot_curves import draw


def test_picture_of_two_runs(call_script, text_runs, tmp_path):
    for name, options in (("curves.png", ()), ("loss.png", ("--metric", "train/loss", "--axis", "examples"))):
        picture = tmp_path / name
        done = call_script("plot_curves.py", *text_runs, *options, "--output", picture)
        assert done.returncode == 0, done.stderr
        pixels = imread(picture)
        assert pixels.shape[:2] == (750, 1200) and len(set(pixels[..., 0].flatten().tolist())) > 10
    assert (tmp_path / "curves.png").read_bytes() != (tmp_path / "loss.png").read_bytes()


def test_seeds_of_a_row_share_a_colour_and_a_line_of_the_legend(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    lines = [(label, [0, 1], [seed, 1]) for label in ("plain", "hyper") for seed in (0, 1)]
    draw(lines, "step", "validation/error", tmp_path / "curves.png")
    (axes,) = kept[0].axes
    colours = [line.get_color() for line in axes.get_lines()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "hyper"]


def test_mistakes(assert_no_picture, text_runs, image_run, tmp_path):
    assert_no_picture("plot_curves.py", tmp_path / "nothing", words=("There is no run", "nothing"))
    words = ("different metrics", "validation/bits_per_character", "validation/error", "--metric")
    assert_no_picture("plot_curves.py", text_runs[0], image_run, words=words)
    unknown = (image_run, "--metric", "train/speed")
    assert_no_picture("plot_curves.py", *unknown, words=("not logged train/speed", "train/loss"))


def test_run_without_rows(assert_no_picture, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    assert_no_picture("plot_curves.py", tmp_path, words=("has no rows yet",))


def test_picture_that_cannot_be_written(call_script, image_run, tmp_path):
    for output, words in ((tmp_path / "nothing" / "curves.png", "No such file"), (tmp_path / "curves.abc", "abc")):
        done = call_script("plot_curves.py", image_run, "--output", output)
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
