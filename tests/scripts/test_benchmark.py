"""The benchmark: what it counts, and that it measures."""

import json
from pathlib import Path

import pytest
import torch

from scripts.benchmarks.images import operations

PROJECT = Path(__file__).resolve().parents[2]


def test_operations_of_a_training_step():
    def convolution(c_in, c_out, size):
        return 2 * 9 * c_in * c_out * size**2

    stem, classifier = convolution(3, 16, 32), 2 * 64 * 10
    forward = stem + 12 * convolution(16, 16, 32) + classifier
    forward += convolution(16, 32, 16) + 11 * convolution(32, 32, 16)
    forward += convolution(32, 64, 8) + 11 * convolution(64, 64, 8)
    counted = operations(1, torch.device("cpu"))
    assert counted["plain"] == 3 * forward - stem  # no gradient with respect to the images
    assert 1 < counted["hyper"] / counted["plain"] < 1.01


@pytest.mark.slow
def test_images_are_measured_and_other_parts_kept(call_script, tmp_path):
    operations = json.loads((PROJECT / "results" / "performance.json").read_text())["operations"]
    (tmp_path / "performance.json").write_text(json.dumps({"operations": operations}))
    done = call_script("benchmark.py", "--only", "images", "--rounds", "1", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "## Wide ResNets" in done.stdout and "## Operations" in done.stdout
    record = json.loads((tmp_path / "performance.json").read_text())
    assert record["operations"] == operations
    measured = record["images"]
    assert measured["command"].endswith(f"--only images --rounds 1 --output {tmp_path}") and measured["rounds"] == 1
    for network in ("WRN-40-1", "WRN-40-2"):
        assert 0.5 < measured["wide_resnets"][network]["training"]["hyper"]["ratio"] < 2
    assert measured["settings"]["as by default"]["ratio"] == 1
    assert measured["pipeline_images_per_second"] > 1000
