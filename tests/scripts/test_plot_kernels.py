"""Kernels of runs side by side (Figures 2, 12 and 13)."""

from matplotlib.image import imread


def test_picture_of_two_runs(call_script, image_run, tmp_path):
    for name, options, kernels in (("two.png", (), 2), ("one.png", ("--kernels", "0"), 1)):
        picture = tmp_path / name
        done = call_script("plot_kernels.py", image_run, image_run, "--output", picture, *options)
        assert done.returncode == 0, done.stderr
        pixels = imread(picture)
        assert pixels.shape[:2] == (500 * kernels, 1000)
        red, _, blue = (pixels[..., channel] for channel in range(3))
        assert (red > blue).any() and (blue > red).any(), "weights of both signs"


def test_mistakes(assert_no_picture, image_run, text_runs, tmp_path):
    assert_no_picture("plot_kernels.py", tmp_path / "nothing", words=("There is no run", "nothing"))
    assert_no_picture("plot_kernels.py", text_runs[0], words=("'lstm'", "has no kernels"))
    assert_no_picture("plot_kernels.py", image_run, "--kernels", "99", words=("no kernel 99", "0 to 5"))
