"""The benchmarks: what they count, and how figures become tables."""


def test_operations_of_a_training_step(launcher):
    def convolution(c_in, c_out, size):
        return 2 * 9 * c_in * c_out * size**2

    stem, classifier = convolution(3, 16, 32), 2 * 64 * 10
    forward = stem + 12 * convolution(16, 16, 32) + classifier
    forward += convolution(16, 32, 16) + 11 * convolution(32, 32, 16)
    forward += convolution(32, 64, 8) + 11 * convolution(64, 64, 8)
    done = launcher.succeed("--quick", "--only", "counts", program="benchmarks/__main__.py")
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("| WRN-40-1 |"))
    plain, hyper = (int(cell.replace(",", "")) for cell in row.split("|")[2:4])
    assert plain == 3 * forward - stem  # no gradient with respect to the images
    assert 1 < hyper / plain < 1.01
