"""Histograms of the cell states of runs (Figure 5)."""

import numpy as np
from matplotlib.image import imread


def test_picture_of_two_runs(call_script, text_runs, tmp_path):
    picture = tmp_path / "cell_states.png"
    arguments = ("--characters", 80, "--device", "cpu", "--output", picture)
    done = call_script("plot_cell_states.py", *text_runs, *arguments)
    assert done.returncode == 0, done.stderr
    pixels = imread(picture)
    assert pixels.shape[:2] == (450, 1200)
    coloured = np.ptp(pixels[..., :3], axis=2) > 0.2
    assert coloured[:, :600].any() and coloured[:, 600:].any()  # bars in both panels


def test_mistakes(assert_no_picture, image_run, tmp_path):
    options = ("--device", "cpu")
    assert_no_picture("plot_cell_states.py", tmp_path / "nothing", *options, words=("There is no run", "nothing"))
    assert_no_picture("plot_cell_states.py", image_run, *options, words=("'wide_resnet'", "no cell state"))


def test_fewer_than_one_character(assert_no_picture, text_runs):
    words = ("--characters is 0", "at least 1")
    assert_no_picture("plot_cell_states.py", text_runs[0], "--characters", 0, "--device", "cpu", words=words)


def test_picture_that_cannot_be_written(call_script, text_runs, tmp_path):
    output = tmp_path / "nothing" / "cell_states.png"
    arguments = ("--characters", 8, "--device", "cpu", "--output", output)
    done = call_script("plot_cell_states.py", text_runs[0], *arguments)
    assert done.returncode == 1 and "No such file" in done.stderr and done.stderr.count("\n") == 1, done.stderr
