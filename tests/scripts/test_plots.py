"""Pictures of runs: kernels (Figures 2, 12, 13), cell states (Figure 5) and curves (Figure 6)."""

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.image import imread

from scripts.plot import curve, draw_curves


def test_kernels_of_two_runs(call_script, finished, tmp_path):
    for options, kernels in ((), 2), (("--kernels", "stem.weight"), 1):
        picture = tmp_path / "kernels.png"
        done = call_script("plot", "kernels", finished, finished, "--output", picture, *options)
        assert done.returncode == 0, done.stderr
        pixels = imread(picture)
        assert pixels.shape[1] / pixels.shape[0] == 2 / kernels
        red, _, blue = (pixels[..., channel] for channel in range(3))
        assert (red > blue).any() and (blue > red).any(), "weights of both signs"


def test_a_network_without_kernels_is_named(launcher, assert_refused, tmp_path):
    arguments = launcher.new("main_net=mlp", "hypernet=none", "steps=1")
    launcher.succeed(*(each for each in arguments if not each.startswith("main_net.depth")))
    words = "no kernels to draw", "mlp"
    assert_refused("plot", "kernels", launcher.only_run(), "--output", tmp_path / "kernels.png", words=words)


def test_cell_states_of_two_runs(call_script, text_runs, tmp_path):
    picture = tmp_path / "cell_states.png"
    done = call_script("plot", "cell_states", *text_runs, "--characters", 80, "--output", picture)
    assert done.returncode == 0, done.stderr
    pixels = imread(picture)
    left, right = np.array_split(np.ptp(pixels[..., :3], axis=2) > 0.2, 2, axis=1)
    assert left.any() and right.any(), "bars in both panels"


def test_samples_of_two_runs_are_below_each_other(call_script, finished, tmp_path):
    heights = []
    for runs in ([finished], [finished, finished]):
        done = call_script("plot", "samples", *runs, "--output", tmp_path / "samples.png")
        assert done.returncode == 0, done.stderr
        heights.append(len(imread(tmp_path / "samples.png")))
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.05)


def test_curves_of_two_runs(call_script, text_runs, tmp_path):
    for name, options in (("curves.png", ()), ("loss.png", ("--metric", "train/loss", "--axis", "examples"))):
        done = call_script("plot", "curves", *text_runs, *options, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (imread(tmp_path / "curves.png") != imread(tmp_path / "loss.png")).any()


def test_curves_show_the_metric_of_the_task(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    row = {"step": 1, "examples": 9, "validation/auroc": 90, "validation/error": 2}
    (run / "metrics.jsonl").write_text(f"{json.dumps(row)}\n")
    assert curve(run, "step", None) == ([1], [2], "validation/error")
    assert curve(run, "examples", "validation/auroc") == ([9], [90], "validation/auroc")


def test_seeds_of_a_row_share_a_colour_and_a_line_of_the_legend():
    lines = [(label, [0, 1], [seed, 1]) for label in ("plain", "hyper") for seed in (0, 1)]
    figure = draw_curves(lines, "step", "validation/error")
    (axes,) = figure.axes
    plt.close(figure)
    colours = [line.get_color() for line in axes.get_lines()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "hyper"]


@pytest.mark.parametrize(
    ("script", "run", "options", "words"),
    [
        ("kernels", "nothing", (), ("no run",)),
        ("kernels", "text", (), ("no kernels",)),
        ("samples", "text", (), ("no picture",)),
        ("kernels", "images", ("--kernels", "conv9"), ("no kernel 'conv9'", "stem.weight")),
        ("cell_states", "nothing", (), ("no run",)),
        ("cell_states", "images", (), ("no cell state",)),
        ("cell_states", "text", ("--characters", "0"), ("--characters is 0",)),
        ("curves", "nothing", (), ("no run",)),
        ("curves", "images", ("--metric", "train/speed"), ("not logged train/speed", "train/loss")),
    ],
)
def test_mistakes(script, run, options, words, assert_refused, finished, text_runs, tmp_path):
    path = {"nothing": tmp_path / "nothing", "text": text_runs[0], "images": finished}[run]
    assert_refused("plot", script, path, *options, "--output", tmp_path / "refused.png", words=words)
    assert not (tmp_path / "refused.png").exists()


def test_curves_that_do_not_go_together(assert_refused, text_runs, finished, tmp_path):
    words = ("validation/bits_per_character", "validation/error", "--metric")
    assert_refused("plot", "curves", text_runs[0], finished, "--output", tmp_path / "curves.png", words=words)


def test_run_without_rows_and_pictures_that_cannot_be_written(assert_refused, finished, tmp_path):
    assert_refused("plot", "curves", finished, "--output", tmp_path / "none" / "curves.png", words=("Cannot write",))
    assert_refused("plot", "curves", finished, "--output", tmp_path / "curves.abc", words=("Cannot write", "abc"))
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "metrics.jsonl").write_text("")
    assert_refused("plot", "curves", run, words=("no rows yet",))
