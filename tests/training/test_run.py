"""A run that is killed anywhere and goes on, by `-r` or by its name, is the run that was never interrupted."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from hypernets import UserError
from training.command_line import rewrite_resume, with_absolute_paths
from training.run import Run, most_recent_run, path_of_run, read_facts, read_result, read_settings

# Five steps are an epoch, so the run ends in its 40th; the three intervals have no common multiple within it.
LONG = ("steps=200", "log_every=2", "validate_every=25", "checkpoint_every=7")


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def go_on(run):
    """What train.py does before it builds anything, and what a trainer does first."""
    held = Run(run, read_settings(run), [])
    try:
        return held.newest_checkpoint(read_facts(run)["data"])
    finally:
        held.close()


def test_killed_at_random_moments(launcher, tmp_path, make_launcher, assert_same_run):
    uninterrupted = make_launcher(tmp_path / "uninterrupted")
    uninterrupted.succeed(*uninterrupted.new(*LONG))

    generator = random.Random(0)
    arguments = launcher.new(*LONG, "run=mine")
    for rows in (generator.randint(2, 12), generator.randint(25, 40)):
        process = launcher.start(*arguments)  # the second time it goes on
        launcher.wait_for_rows(process, rows)
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        assert launcher.finish(process).returncode == -signal.SIGKILL
    launcher.succeed("-r", f"runs={launcher.runs}")
    assert_same_run(uninterrupted.only_run(), launcher.runs / "mine")
    sessions = json.loads((launcher.runs / "mine" / "sessions.json").read_text())
    assert len(sessions) == 3 and all(session["first_step"] > 0 for session in sessions[1:])


@pytest.mark.parametrize("left", [["run.json", "config.yaml", "lock"], ["config.yaml", "lock"]])
def test_killed_before_its_first_checkpoint_starts_again(launcher, finished, assert_same_run, left):
    run = launcher.runs / "mine"
    run.mkdir(parents=True)
    for name in left:
        shutil.copy(finished / name, run)
    launcher.succeed(*launcher.new("steps=6", "log_every=1", "validate_every=3", "checkpoint_every=2", "run=mine"))
    assert_same_run(finished, run)


def test_named_run_goes_on_by_the_same_command(launcher, assert_one_line):
    run, command = launcher.runs / "mine", launcher.new("run=mine", "steps=2", "seed=3")
    launcher.succeed(*command)
    before = contents(run)
    assert f"{run} is finished, after 2 steps" in launcher.succeed(*command).stdout
    assert_one_line(launcher.call(*command, "seed=4", "main_net.width=2"), "seed (was 3, now 4)", "main_net.width")
    assert contents(run) == before
    launcher.succeed(*command, "steps=3")
    assert read_result(run)["steps"] == 3 and read_result(run)["name"] == "mine"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden"])
def test_name_that_is_none(launcher, assert_one_line, name):
    assert_one_line(launcher.call(*launcher.new(f"run={name}")), name, "without a slash")
    assert not launcher.runs.exists()


def test_folder_of_somebody_else_is_no_run(launcher, assert_one_line):
    (launcher.runs / "mine").mkdir(parents=True)
    (launcher.runs / "mine" / "thesis.tex").write_text("all I have")
    assert_one_line(launcher.call(*launcher.new("run=mine")), f"{launcher.runs}/mine is not empty", "another name")
    assert contents(launcher.runs / "mine") == {"thesis.tex": b"all I have"}


def test_run_without_a_name_gets_one_that_nobody_has(tmp_path):
    group = {"name": "it"}
    settings = {"resume": None, "runs": str(tmp_path), "run": None, "seed": 1}
    settings |= {"dataset": group, "main_net": group, "hypernet": group}
    first = path_of_run(settings)
    first.mkdir()
    assert path_of_run(settings) != first and first.name.startswith("it-it-it-s1-")


def test_most_recent_run_is_the_one_started_or_resumed_last(launcher, copied):
    older = shutil.copytree(copied, launcher.runs / "older")
    (older / "lock").unlink()
    os.utime(older / "run.json", (0, 0))
    launcher.succeed(f"runs={launcher.runs}", "-r", "steps=7")
    assert (read_result(copied)["steps"], read_result(older)["steps"]) == (7, 6)
    os.utime(copied / "run.json", (1, 1))
    launcher.succeed("--resume", str(older), "steps=8")
    assert most_recent_run(launcher.runs) == older


def test_what_a_resume_may_change(launcher, copied):
    changes = ["steps=7", "schedule=constant", "schedule.rate=0.001", "gradient_clip=1.0", "precision=float32"]
    launcher.succeed("-r", str(copied), *changes, "log_every=1", "checkpoint_every=3", "device=auto")
    settings = read_settings(copied)
    assert (settings["schedule"], settings["gradient_clip"]) == ({"kind": "constant", "rate": 0.001}, 1.0)
    # The keys of the group before are not those of the next one.
    launcher.succeed("-r", str(copied), "steps=8", "schedule=one_cycle", "schedule.peak=0.02")
    launcher.succeed("-r", str(copied), "steps=9")
    settings = read_settings(copied)["schedule"]
    assert settings["kind"] == "one_cycle" and settings["peak"] == 0.02 and "rate" not in settings


def test_more_steps_are_kept_and_so_is_the_earlier_result(launcher, copied):
    earlier, rows = (copied / "result.json").read_bytes(), (copied / "metrics.jsonl").read_bytes()
    overrides = read_facts(copied)["overrides"]
    extended = ["steps=8", "validate_every=4"]
    launcher.succeed("-r", str(copied), *extended)
    assert (copied / "result-6-steps.json").read_bytes() == earlier
    assert read_result(copied)["steps"] == 8
    assert read_facts(copied)["overrides"] == overrides and {*extended} <= {*read_facts(copied)["resumed_with"]}
    assert (copied / "metrics.jsonl").read_bytes().startswith(rows)

    done = launcher.succeed("-r", str(copied))  # does not say steps again
    assert "is finished, after 8 steps" in done.stdout
    launcher.succeed("-r", str(copied), "steps=10")
    assert read_result(copied)["settings"]["validate_every"] == 4
    assert {path.name for path in copied.glob("result*")} == {f"result{s}.json" for s in ("", "-6-steps", "-8-steps")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["main_net.width=2", "optimizer.betas=[0.8,0.9]"], ["main_net.width (was 1, now 2)", "optimizer.betas"]),
        (["schedule.peak=-1"], ["schedule.peak is -1"]),
        (["dataset.path=/nowhere/images.npz"], ["/nowhere/images.npz"]),
        (["steps=5"], ["steps=6 or more"]),
    ],
)
def test_refused_resume_changes_nothing_and_is_not_the_most_recent(
    launcher, unfinished, assert_one_line, changes, words
):
    other = shutil.copytree(unfinished, launcher.runs / "other")
    os.utime(unfinished / "run.json", (0, 0))
    before = contents(unfinished)
    assert_one_line(launcher.call("-r", str(unfinished), *changes), *words)
    assert contents(unfinished) == before
    assert most_recent_run(launcher.runs) == other


def test_other_data_in_the_place_of_the_first_is_refused(launcher, copied, assert_one_line, tmp_path):
    before = contents(copied)
    arrays = dict(np.load(launcher.images))
    moved, other = tmp_path / "moved.npz", tmp_path / "other.npz"
    np.savez(moved, **arrays)
    np.savez(other, **arrays | {"y_train": arrays["y_train"][::-1]})
    done = launcher.call("-r", str(copied), "steps=7", f"dataset.path={other}")
    assert_one_line(done, "not the one", str(copied), "dataset.path")
    assert contents(copied) == before
    launcher.succeed("-r", str(copied), "steps=7", f"dataset.path={moved}")


DAMAGES = [(name, content) for name in ("run.json", "result.json", "sessions.json") for content in ("3", "{}", "\xff")]
DAMAGES += [("config.yaml", content) for content in ("", "[1]", "a: [", "\xff")]
DAMAGES += [("run.json", '{"id": "", "overrides": [1], "resumed_with": [], "data": ""}')]
DAMAGES += [("result.json", '{"steps": "all"}'), ("sessions.json", '[{"seconds": "long"}]')]


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_damaged_file_of_a_run_is_named(copied, name, content):
    (copied / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=f"{copied}/{name} "):
        go_on(copied)


def test_mistake_in_what_to_resume_is_one_line(launcher, copied, assert_one_line, tmp_path):
    assert_one_line(launcher.call("-r", f"runs={tmp_path}/none"), "no run to resume", f"{tmp_path}/none")
    assert_one_line(launcher.call("-r", f"{tmp_path}"), "no run in", f"{tmp_path}")
    for arguments in (["-r", "-m", "seed=0,1"], ["--multirun", "--resume"], ["-r", "-r"]):
        assert_one_line(launcher.call(*arguments), "-r")
    (copied / "run.json").write_text("[]")
    assert_one_line(launcher.call("-r", str(copied)), f"{copied}/run.json")


def test_command_line_of_a_resume(tmp_path):
    run = tmp_path / "it's one"
    run.mkdir()
    begun, first = ["seed=3", "steps=6", "+hydra.x=1", "schedule.peak=0.1"], ["seed=3", "steps=5", "+hydra.x=1"]
    facts = {"id": "", "data": "", "overrides": first, "resumed_with": ["steps=6", "schedule.peak=0.1"]}
    (run / "run.json").write_text(json.dumps(facts))
    (run / "config.yaml").write_text("schedule: {kind: one_cycle}")
    quoted = "resume='" + str(run).replace("'", "\\'") + "'"
    assert rewrite_resume(["seed=1", "-m"]) == ["seed=1", "-m"]
    for flag in (["-r", str(run)], [f"--resume={run}"]):
        assert rewrite_resume(flag) == [*begun, quoted]
    given = ["precision=bf16", "-r", str(run), "steps=7", "hydra.x=2"]
    assert rewrite_resume(given) == ["seed=3", "steps=7", "+hydra.x=2", begun[-1], "precision=bf16", quoted]
    either = facts | {"overrides": [*first[:1], "++steps=5"], "resumed_with": []}
    (run / "run.json").write_text(json.dumps(either))
    assert rewrite_resume(["-r", str(run), "steps=7"]) == ["seed=3", "++steps=7", quoted]
    (run / "run.json").write_text(json.dumps(facts))
    assert rewrite_resume(["-r", str(run), "schedule=one_cycle"]) == [*begun, "schedule=one_cycle", quoted]
    assert rewrite_resume(["-r", str(run), "schedule=constant"]) == [*begun[:-1], "schedule=constant", quoted]
    flags = ["-r", str(run), "--cfg", "job", "steps=7"]
    assert rewrite_resume(flags) == ["seed=3", "steps=7", *begun[2:], quoted, "--cfg", "job"]


def test_paths_that_stay_as_they_are_meant():
    settings = with_absolute_paths({"runs": "here", "dataset": {"path": "cifar10_sample.npz", "root": "~"}})
    assert settings["dataset"] == {"path": "cifar10_sample.npz", "root": str(Path.home())}
