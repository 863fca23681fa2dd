"""Validation with other statistics of batch norm than the running ones."""

import json
import shutil

import pytest
import torch

SCRIPT = "batch_norm_statistics.py"


def test_only_the_running_statistics_are_replaced(call_script, image_run, tmp_path):
    run = shutil.copytree(image_run, tmp_path / "run")
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    for name, tensor in saved["main_network"].items():
        if name.endswith("running_mean"):
            tensor.add_(torch.linspace(-5, 5, len(tensor)))
    torch.save(saved, run / "checkpoint.pt")

    done = call_script(SCRIPT, image_run, run, "--batches", "3", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    right, wrong = map(json.loads, done.stdout.splitlines())
    result = json.loads((image_run / "result.json").read_text())
    assert (right["run"], right["step"], right["steps"], right["batches"]) == (image_run.name, 1, 1, 3)
    assert right["running_error"] == pytest.approx(result["validation_error"])
    assert wrong["running_error"] != right["running_error"]
    assert wrong["recomputed_error"] == right["recomputed_error"]


def test_mistakes(assert_refused, image_run, text_runs, tmp_path):
    assert_refused(SCRIPT, tmp_path / "nothing", words=("There is no run", "nothing"))
    assert_refused(SCRIPT, text_runs[0], words=("'lstm'", "no batch norm"))
    for batches in (0, 10**6):
        assert_refused(SCRIPT, image_run, "--batches", batches, words=(f"--batches is {batches}", "1 to "))
