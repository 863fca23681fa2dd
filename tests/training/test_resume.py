"""`train.py -r`: a run that is killed anywhere and resumed is the run that was never interrupted."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from training.resume import place_of_runs, refuse_changes, rewrite_resume

ROOT = Path(__file__).parents[2]
# 87 steps are an epoch, so the run ends in its second; the three intervals have no common multiple within it.
LONG = ("budget.steps=100", "budget.log_every=2", "budget.validate_every=25", "budget.checkpoint_every=7")
SHORT = ("budget.steps=4", "budget.log_every=1", "budget.validate_every=2", "budget.checkpoint_every=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_launcher):
    """A finished run of four steps; tests change copies of it."""
    launcher = make_launcher(tmp_path_factory.mktemp("finished"))
    done = launcher.call(*launcher.new(*SHORT))
    assert done.returncode == 0, done.stderr
    return launcher.only_run()


@pytest.fixture
def copied(finished, launcher):
    """A copy of the finished run, alone among the runs of `launcher`."""
    return shutil.copytree(finished, launcher.runs / finished.name)


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def result(run):
    return json.loads((run / "result.json").read_text())


def test_killed_at_random_moments(launcher, tmp_path, make_launcher, assert_same_run):
    uninterrupted = make_launcher(tmp_path / "uninterrupted")
    assert uninterrupted.run(*uninterrupted.new(*LONG)).returncode == 0

    generator = random.Random(0)
    arguments = launcher.new(*LONG)
    for rows in (generator.randint(2, 12), generator.randint(15, 25), generator.randint(28, 45)):
        process = launcher.start(*arguments)
        launcher.wait_for_rows(process, rows)
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        assert launcher.finish(process).returncode == -signal.SIGKILL
        arguments = ["-r", f"runs={launcher.runs}"]
    done = launcher.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted.only_run(), launcher.only_run())
    sessions = json.loads((launcher.only_run() / "sessions.json").read_text())
    assert len(sessions) == 4 and all(session["first_step"] > 0 for session in sessions[1:])


def test_most_recent_run_is_the_one_started_or_resumed_last(launcher, copied):
    older = shutil.copytree(copied, launcher.runs / "older")
    now = time.time()
    os.utime(older / "lock", (now - 10, now - 10))
    assert launcher.call(f"runs={launcher.runs}", "-r", "budget.steps=5").returncode == 0
    assert (result(copied)["steps"], result(older)["steps"]) == (5, 4)

    assert launcher.call("--resume", str(older), "budget.steps=6").returncode == 0
    assert launcher.call("-r", f"runs={launcher.runs}", "budget.steps=7").returncode == 0  # the older, resumed last
    assert (result(copied)["steps"], result(older)["steps"]) == (5, 7)


def test_extended_budget_is_kept_and_so_is_the_earlier_result(launcher, copied):
    earlier = (copied / "result.json").read_bytes()
    first_rows = (copied / "metrics.jsonl").read_bytes()
    overrides = (copied / "overrides.json").read_bytes()

    extended = ["budget.steps=6", "budget.validate_every=3"]
    assert launcher.call("-r", str(copied), *extended).returncode == 0
    assert (copied / "result-4-steps.json").read_bytes() == earlier
    assert result(copied)["steps"] == 6
    assert json.loads((copied / "resumed_with.json").read_text()) == extended
    assert (copied / "overrides.json").read_bytes() == overrides
    assert (copied / "metrics.jsonl").read_bytes().startswith(first_rows)

    done = launcher.call("-r", str(copied))  # does not say budget.steps again
    assert done.returncode == 0 and "is finished, after 6 steps" in done.stdout
    assert launcher.call("-r", str(copied), "budget.steps=8").returncode == 0
    assert result(copied)["settings"]["budget"]["validate_every"] == 3
    assert {path.name for path in copied.glob("result*")} == {
        "result.json",
        "result-4-steps.json",
        "result-6-steps.json",
    }


def test_finished_run_says_so_and_changes_nothing(launcher, copied):
    before = contents(copied)
    done = launcher.call("-r", str(copied))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{copied} is finished, after 4 steps" in done.stdout
    assert contents(copied) == before


def test_killed_before_the_result_was_written(launcher, copied):
    expected = result(copied)
    (copied / "result.json").unlink()
    assert launcher.call("-r", str(copied)).returncode == 0
    ours = result(copied)
    assert all(ours[key] == expected[key] for key in ("test_error", "validation_error", "best_step", "seconds"))


def test_refused_resume_is_not_the_most_recent_run(launcher, copied, assert_one_line):
    other = shutil.copytree(copied, launcher.runs / "other")
    os.utime(other / "lock", (0, 0))
    assert_one_line(launcher.call("-r", str(other), "budget.steps=5", "main_net.width=2"), "main_net.width")
    assert launcher.call("-r", f"runs={launcher.runs}", "budget.steps=5").returncode == 0
    assert (result(copied)["steps"], result(other)["steps"]) == (5, 4)


def test_damaged_files_of_a_run_are_named(launcher, copied, assert_one_line):
    metrics = (copied / "metrics.jsonl").read_bytes()
    (copied / "metrics.jsonl").write_bytes(metrics[:20])
    assert_one_line(launcher.call("-r", str(copied), "budget.steps=5"), f"{copied}/metrics.jsonl is shorter")
    (copied / "metrics.jsonl").write_bytes(metrics)
    for name, words in (("config.yaml", "holds no configuration"), ("overrides.json", "is not whole JSON")):
        whole = (copied / name).read_bytes()
        (copied / name).write_bytes(b"")
        assert_one_line(launcher.call("-r", str(copied), "budget.steps=5"), f"{copied}/{name} {words}")
        (copied / name).write_bytes(whole)
    assert launcher.call("-r", str(copied), "budget.steps=3").returncode == 0  # finished, after 4
    (copied / "result.json").unlink()
    assert_one_line(launcher.call("-r", str(copied), "budget.steps=3"), "has done 4 steps", "budget.steps=4 or more")
    assert launcher.call("-r", str(copied), "budget.steps=5").returncode == 0


def test_changed_architecture_data_or_seed_is_refused(launcher, copied, assert_one_line):
    before = contents(copied)
    changes = ["main_net.width=2", "dataset.batch_size=8", "seed=1", "hypernet.embedding_size=32", "budget.steps=9"]
    done = launcher.call("-r", str(copied), *changes)
    keys = ("main_net.width (was 1, now 2)", "dataset.batch_size (was 16, now 8)", "seed (was 0", "hypernet.embedding")
    assert_one_line(done, *keys)
    assert "budget" not in done.stderr
    assert contents(copied) == before


REFUSED = ["optimizer.gradient_clip=-1", "schedule.peak=-1", "logger.name=print", "dataset.path=/nowhere/images.npz"]


@pytest.mark.parametrize("override", REFUSED)
def test_refused_resume_changes_nothing(launcher, copied, assert_one_line, override):
    before = contents(copied)
    done = launcher.call("-r", str(copied), "budget.steps=5", override)
    assert_one_line(done, override.partition("=")[2])
    assert contents(copied) == before, "the next -r would be refused as well"


def test_other_data_in_the_place_of_the_first_is_refused(launcher, copied, assert_one_line, tmp_path):
    before = contents(copied)
    arrays = dict(np.load(ROOT / "data" / "cifar10_sample.npz"))
    moved, other = tmp_path / "moved.npz", tmp_path / "other.npz"
    np.savez(moved, **arrays)
    arrays["y_train"] = arrays["y_train"][::-1]
    np.savez(other, **arrays)

    done = launcher.call("-r", str(copied), "budget.steps=5", f"dataset.path={other}")
    assert_one_line(done, "not the one", str(copied), "dataset.path")
    assert contents(copied) == before

    done = launcher.call("-r", str(copied), "budget.steps=5", f"dataset.path={moved}")
    assert done.returncode == 0, done.stderr
    assert result(copied)["steps"] == 5


def test_only_what_changes_the_run_is_compared():
    earlier = {"seed": 0, "dataset": {"root": "a", "flip": True}, "optimizer": {"name": "sgd", "momentum": 0.9}}
    moved = {"seed": 0, "dataset": {"root": "b", "flip": True}, "optimizer": {"name": "sgd", "momentum": 0.9}}
    refuse_changes(earlier, moved)
    with pytest.raises(ValueError, match="dataset.flip"):
        refuse_changes(earlier, {**moved, "dataset": {"root": "b"}})
    with pytest.raises(ValueError, match="optimizer.name"):
        refuse_changes(earlier, {**moved, "optimizer": {"name": "adam"}})
    with pytest.raises(ValueError, match="optimizer.momentum"):  # a checkpoint brings its own
        refuse_changes(earlier, {**moved, "optimizer": {"name": "sgd", "momentum": 0.8}})


def test_nothing_to_resume(launcher, assert_one_line, tmp_path):
    assert_one_line(launcher.call("-r", f"runs={tmp_path}/none"), "no run to resume", f"{tmp_path}/none")
    assert_one_line(launcher.call("-r", f"{tmp_path}"), "no run to resume", f"{tmp_path}")


def test_run_that_never_saved_a_checkpoint(launcher, copied, assert_one_line):
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "result.json"):
        (copied / name).unlink()
    assert_one_line(launcher.call("-r", str(copied)), "There is no checkpoint", str(copied))


@pytest.mark.parametrize("arguments", [["-r", "-m", "seed=0,1"], ["--multirun", "--resume"], ["-r", "-r"]])
def test_one_run_at_a_time(launcher, assert_one_line, arguments):
    assert_one_line(launcher.call(*arguments), "resume", "-r")


def test_folder_of_runs_as_hydra_reads_it():
    assert place_of_runs(["seed=1"]) == Path("runs")
    assert place_of_runs(["runs=elsewhere", r"runs='a b/it\'s'"]) == Path("a b/it's")


def test_command_line_of_a_resume(tmp_path):
    run = tmp_path / "it's one"
    run.mkdir()
    (run / "overrides.json").write_text(json.dumps(["seed=3", "budget.steps=5", "+hydra.x=1"]))
    (run / "resumed_with.json").write_text(json.dumps(["budget.steps=6"]))
    quoted = "resume='" + str(run).replace("'", "\\'") + "'"
    assert rewrite_resume(["seed=1", "-m"]) == ["seed=1", "-m"]
    assert rewrite_resume(["-r", str(run)]) == ["seed=3", "budget.steps=6", "+hydra.x=1", quoted]
    given = ["precision=bf16", "-r", str(run), "budget.steps=7", "hydra.x=2"]
    assert rewrite_resume(given) == ["seed=3", "budget.steps=7", "hydra.x=2", "precision=bf16", quoted]
    flags = ["-r", str(run), "--cfg", "job", "budget.steps=7"]
    assert rewrite_resume(flags) == ["seed=3", "budget.steps=7", "+hydra.x=1", quoted, "--cfg", "job"]
