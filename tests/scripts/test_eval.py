"""`eval.py`: the figures of the best checkpoint, once more."""

import json
import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf


def test_figures_are_those_of_the_result(call_script, text_runs, image_run):
    for run in (*text_runs, image_run):
        result = json.loads((run / "result.json").read_text())
        done = call_script("../eval.py", run, "--device", "cpu")
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        assert (printed["run"], printed["step"]) == (run.name, result["best_step"])
        assert printed["parameters"] == result["parameters"]
        figures = {key: value for key, value in result.items() if key.startswith(("validation_", "test_"))}
        assert len(figures) == 2
        assert {key: printed[key] for key in figures} == pytest.approx(figures, rel=1e-4)
        assert all(key in done.stderr for key in printed)


def test_mistakes(assert_refused, image_run, tmp_path):
    assert_refused("../eval.py", tmp_path / "nothing", words=("There is no run", "nothing"))
    run = shutil.copytree(image_run, tmp_path / "run")

    config = OmegaConf.load(run / "config.yaml")
    arrays = dict(np.load(config.dataset.path))
    np.savez(tmp_path / "other.npz", **arrays | {"x_test": arrays["x_test"][::-1]})
    config.dataset.path = str(tmp_path / "other.npz")
    OmegaConf.save(config, run / "config.yaml")
    assert_refused("../eval.py", run, words=("not the one", str(run), "dataset.path"))

    (run / "best.pt").unlink()
    assert_refused("../eval.py", run, words=("no best checkpoint yet",))
