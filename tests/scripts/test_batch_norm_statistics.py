"""Validation with other statistics of batch norm than the running ones."""

import json
import shutil

import pytest
import torch

from eval import load_run
from training.precision import autocast, resolve_precision

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
    assert right["running"]["error"] == pytest.approx(result["validation_error"])
    assert wrong["running"]["loss"] != pytest.approx(right["running"]["loss"], rel=1e-3)
    assert wrong["recomputed"] == right["recomputed"]


def test_recomputed_statistics_are_the_mean_over_the_batches(call_script, image_run):
    done = call_script(SCRIPT, image_run, "--batches", "3", "--device", "cpu")
    settings, splits, task, step = load_run(image_run, "cpu", newest=True)
    cpu = torch.device("cpu")
    precision = resolve_precision(settings["precision"], cpu)
    norms = [module for module in task.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    found = {norm: [] for norm in norms}  # the mean and the variance that each batch leaves
    for index in range(3):
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad(), autocast(precision, cpu):
            task.train().main_network(splits.train.batch(step + index)[0])
        for norm in norms:
            found[norm].append((norm.running_mean.clone(), norm.running_var.clone()))
    for norm, batches in found.items():
        for buffer, values in zip((norm.running_mean, norm.running_var), zip(*batches, strict=True), strict=True):
            buffer.copy_(torch.stack(values).mean(dim=0))
    with autocast(precision, cpu):
        expected = task.evaluate(splits.validation.evaluation_batches())
    assert json.loads(done.stdout)["recomputed"] == pytest.approx(expected, rel=1e-3)


def test_mistakes(assert_refused, image_run, text_runs, tmp_path):
    assert_refused(SCRIPT, tmp_path / "nothing", words=("There is no run", "nothing"))
    assert_refused(SCRIPT, text_runs[0], words=("'lstm'", "no batch norm"))
    for batches in (0, 10**6):
        assert_refused(SCRIPT, image_run, "--batches", batches, words=(f"--batches is {batches}", "1 to "))
