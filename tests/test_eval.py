"""`eval.py`: the figures of the best network, once more."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from training import trained
from training.run import read_result

ROOT = Path(__file__).resolve().parents[1]


def test_figures_are_those_of_the_result(launcher, finished, tmp_path):
    (tmp_path / "my.txt").write_text("the quick brown fox\n" * 100)
    text = ["dataset=text", f"dataset.path={tmp_path}/my.txt", "dataset.sequence_length=10", "dataset.warm_up=20"]
    network = ["main_net=lstm", "main_net.hidden_size=6", "hypernet=hyperlstm", "hypernet.hyper_size=4"]
    given = [*text, *network, "dataset.batch_size=4", "logger=none", "device=cpu", f"runs={launcher.runs}"]
    launcher.succeed(*given, "steps=4", "validate_every=2")
    for run in (finished, launcher.only_run()):
        result = read_result(run)
        done = launcher.succeed(str(run), "--device", "cpu", program="eval.py")
        printed = json.loads(done.stdout)
        assert (printed["run"], printed["step"]) == (run.name, result["best_step"])
        assert printed["parameters"] == result["parameters"]
        figures = {key: value for key, value in result.items() if key.startswith(("validation_", "test_"))}
        assert len(figures) == 2
        assert {key: printed[key] for key in figures} == pytest.approx(figures, rel=1e-4)
        assert all(key in done.stderr for key in printed)


def test_published_weights_are_the_network_of_the_run(launcher, finished, monkeypatch, tmp_path, assert_one_line):
    monkeypatch.setattr(trained, "WEIGHTS", tmp_path / "weights")
    launcher.succeed(str(finished), "tiny", program="scripts/publish_weights.py")
    of_run, of_weights = (
        json.loads(launcher.succeed(name, "--device", "cpu", program="eval.py").stdout)
        for name in (str(finished), "tiny")
    )
    assert of_weights | {"run": finished.name} == of_run
    again = str(finished), "tiny"
    done = launcher.call(*again, program="scripts/publish_weights.py")
    assert_one_line(done, "tiny.safetensors exists", "add --replace", program="publish_weights")
    launcher.succeed(*again, "--replace", program="scripts/publish_weights.py")
    done = launcher.call("tinny", program="eval.py")
    assert_one_line(done, "neither a run in tinny", "runs/tinny", "names tiny", program="eval.py")

    network = torch.hub.load(str(ROOT), "tiny", source="local")
    _, splits, task, _ = trained.load_trained(finished, "cpu")
    ((images, _),) = splits.test.evaluation_batches()
    with torch.no_grad():
        assert torch.equal(network(images), task.eval().network(images))

    path = trained.path_of_weights("tiny")
    path.write_bytes(path.read_bytes()[:-100])
    assert_one_line(launcher.call("tiny", program="eval.py"), str(path), "cannot be read", program="eval.py")


def test_data_that_has_moved_is_found(finished, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = OmegaConf.load(finished / "config.yaml")
    config.dataset.root = "/where/it/was"
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    assert trained.read_trained(tmp_path / "run").settings["dataset"]["root"] == "/where/it/was"
    monkeypatch.setenv("HYPERNETS_DATA", "/where/it/is")
    assert trained.read_trained(tmp_path / "run").settings["dataset"]["root"] == "/where/it/is"


def test_one_process_of_several_is_refused(launcher, finished, monkeypatch, assert_one_line):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(launcher.call(str(finished), program="eval.py"), "in one process", program="eval.py")


def test_mistakes(launcher, copied, assert_one_line, tmp_path):
    def refuse(run, *words):
        done = launcher.call(str(run), program="eval.py")
        assert_one_line(done, *words, program="eval.py")
        assert done.stdout == ""

    refuse(tmp_path / "nothing", "There is no run", "nothing")
    for name, content in (("run.json", "[]"), ("config.yaml", "[]")):
        whole = (copied / name).read_text()
        (copied / name).write_text(content)
        refuse(copied, f"{copied}/{name}")
        (copied / name).write_text(whole)

    arrays = dict(np.load(launcher.images))
    np.savez(tmp_path / "other.npz", **arrays | {"x_test": arrays["x_test"][::-1]})
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(config.replace(str(launcher.images), str(tmp_path / "other.npz")))
    refuse(copied, "not the one", str(copied))
    (copied / "config.yaml").write_text(config.replace("depth: 10", "depth: 16"))
    refuse(copied, "does not fit the network")

    for name in ("best.pt", "best.previous.pt"):
        (copied / name).unlink(missing_ok=True)
    refuse(copied, "no best network")
