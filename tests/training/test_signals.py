"""What a user or a cluster sees of a run that a signal stops, and of two that want one directory."""

import json
import os
import re
import signal
from pathlib import Path

import torch

from data.images import ImageBatches
from training.run import Run, read_result, read_rows, read_settings

# Longer than the test takes, so that the signal comes first; the intervals let it fall between checkpoints.
ENDLESS = ("steps=100000", "log_every=1", "validate_every=50000", "checkpoint_every=40000", "schedule=constant")


def test_saves_at_the_very_step_and_says_how_to_go_on(launcher):
    process = launcher.start(*launcher.new(*ENDLESS))
    launcher.wait_for_rows(process, 3)
    process.terminate()
    done = launcher.finish(process)
    assert done.returncode == 128 + signal.SIGTERM and "Traceback" not in done.stderr
    run = launcher.only_run()
    said = re.search(r"Stopped at step (\d+) by SIGTERM; resume with: python train.py (-r \S+)\n", done.stderr)
    assert said, done.stderr
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    assert saved["step"] == int(said[1]) == read_rows(run)[-1]["step"] >= 3
    launcher.succeed(*said[2].split(), f"steps={saved['step'] + 2}")
    assert [row["step"] for row in read_rows(run)] == list(range(1, saved["step"] + 3))


def test_saves_although_nobody_reads_what_it_prints(launcher):
    process = launcher.start(*launcher.new(*ENDLESS))
    launcher.wait_for_rows(process, 3)
    process.stdout.close()  # as Ctrl-C ends tee, too
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    run = launcher.only_run()
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == read_rows(run)[-1]["step"] >= 3


def test_signal_in_the_final_test_says_how_to_go_on(launcher, monkeypatch):
    begin, begun = ImageBatches.evaluation_batches, []

    def interrupt(split):
        begun.append(split)
        if len(begun) == 2:  # the test, after one validation
            signal.raise_signal(signal.SIGINT)
        return begin(split)

    with monkeypatch.context() as patch:
        patch.setattr(ImageBatches, "evaluation_batches", interrupt)
        done = launcher.call(*launcher.new("steps=2"))
    run = launcher.only_run()
    assert done.returncode == 128 + signal.SIGINT and not (run / "result.json").exists()
    assert done.stderr.splitlines()[-1] == f"Stopped at step 2 by SIGINT; resume with: python train.py -r {run}"
    launcher.succeed("-r", str(run))
    assert read_result(run)["steps"] == 2


def test_one_process_a_run_directory(launcher, copied, assert_one_line):
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}
    other = Run(copied, read_settings(copied), [])
    assert_one_line(launcher.call("-r", str(copied), "steps=7"), "Another process is training", str(copied))
    assert {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()} == before
    other.close()
    launcher.succeed("-r", str(copied), "steps=7")


def test_job_that_is_preempted_goes_back_into_the_queue_and_goes_on(launcher):
    """By submitit's local executor, and the signal that submitit's Slurm jobs get before they must end."""
    job = launcher.start(
        "-m", "hydra/launcher=submitit_local", *launcher.new(*ENDLESS, "steps=400", "checkpoint_every=400")
    )
    launcher.wait_for_rows(job, 3)
    run = launcher.only_run()
    (number,) = re.fullmatch(r".*-job(\d+)", run.name).groups()
    worker = int(Path(f"/proc/{number}/task/{number}/children").read_text())
    os.kill(worker, signal.SIGTERM)  # Slurm sends both
    os.kill(worker, signal.SIGUSR2)
    done = launcher.finish(job)
    assert done.returncode == 0, done.stderr
    assert launcher.only_run() == run and read_result(run)["steps"] == 400
    first, second = json.loads((run / "sessions.json").read_text())
    assert 0 < first["last_step"] == second["first_step"] < 400
    assert [row["step"] for row in read_rows(run)] == list(range(1, 401))
