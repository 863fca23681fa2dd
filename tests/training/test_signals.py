"""SIGTERM and SIGINT end a run cleanly, and two processes cannot train in one run directory."""

import json
import re
import signal

import pytest

from training import checkpoint

# Longer than the test takes, so that the signal comes first; the intervals let it fall between checkpoints.
ENDLESS = ("budget.steps=100000", "budget.log_every=1", "budget.validate_every=50000", "budget.checkpoint_every=40000")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_saves_at_the_very_step_and_says_how_to_go_on(launcher, make_launcher, tmp_path, assert_same, number, status):
    # A constant rate, so that the whole run may end anywhere and be the same up to there.
    arguments = (*ENDLESS, "schedule=constant")
    process = launcher.start(*launcher.new(*arguments))
    launcher.wait_for_rows(process, 3)
    process.send_signal(number)
    done = launcher.finish(process)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    run = launcher.only_run()
    said = re.search(r"Stopped at step (\d+) by (\w+); resume with: python train.py (-r \S+)\n", done.stderr)
    assert said, done.stderr
    saved = checkpoint.load(run / checkpoint.NEWEST)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert saved["step"] == int(said[1]) == json.loads(rows[-1])["step"] >= 3
    assert said[2] == number.name

    steps = f"budget.steps={saved['step'] + 5}"
    assert launcher.call(*said[3].split(), steps, "budget.log_every=2").returncode == 0
    uninterrupted = make_launcher(tmp_path / "uninterrupted")
    whole = [*arguments, f"budget.checkpoint_every={saved['step'] + 5}", steps]
    assert uninterrupted.call(*uninterrupted.new(*whole)).returncode == 0
    ours, theirs = (checkpoint.load(each.only_run() / checkpoint.NEWEST) for each in (launcher, uninterrupted))
    for both in (ours, theirs):
        del both["metrics_size"]  # the resume logged every other step only
    assert_same(ours, theirs)
    first = (uninterrupted.only_run() / "metrics.jsonl").read_text().splitlines()
    assert first[: len(rows)] == rows


def test_one_process_a_run_directory(launcher, assert_one_line):
    process = launcher.start(*launcher.new(*ENDLESS))
    launcher.wait_for_rows(process, 1)
    run = launcher.only_run()
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "checkpoint.pt", "sessions.json")}
    second = launcher.call("-r", str(run), "budget.steps=7")
    assert_one_line(second, "Another process is training", str(run))
    assert process.poll() is None
    assert {name: (run / name).read_bytes() for name in before} == before

    process.kill()  # the kernel releases the lock of a process that is gone
    process.wait(timeout=60)
    done = launcher.call("-r", str(run), "budget.steps=2")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "result.json").read_text())["steps"] == 2
