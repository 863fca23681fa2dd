"""Running the rows of a table: what is there is not run again, what was stopped goes on."""

import json
import signal
import sys

import pytest

from scripts import train_command

SCRIPT = "reproduce"
ROW = "table2/wrn_40_1"
NAME = "table2-wrn_40_1-s0"


@pytest.fixture
def small(launcher, tmp_path):
    """Arguments with which a row is a run of a second or so."""
    data = ["dataset=arrays", f"dataset.path={launcher.images}", "dataset.batch_size=16", "main_net.depth=10"]
    place = ["device=cpu", "logger=none", f"runs={launcher.runs}", "--records", str(tmp_path / "records")]
    return [*data, "steps=4", "validate_every=2", "log_every=1", *place]


def test_goes_on_where_it_was_stopped_and_records_what_has_finished(
    launcher, call_script, assert_refused, small, train_here
):
    long = [ROW, *small, "steps=150", "validate_every=150"]
    process = launcher.start("-m", "scripts.reproduce", *long, program=())
    launcher.wait_for_rows(process, 3)
    process.send_signal(signal.SIGINT)
    stopped = launcher.finish(process)
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr, stopped.stderr
    assert launcher.only_run().name == NAME

    assert call_script(SCRIPT, *long, "--dry-run").stdout.startswith(f"stopped   {ROW} seed=0, 150 steps")
    assert_refused(SCRIPT, *long, "schedule.rates=[0.1,0.1,0.1,0.1,0.1]", words=(NAME, "other settings", "runs="))
    done = call_script(SCRIPT, *long)
    assert done.returncode == 0, done.stderr
    assert launcher.only_run().name == NAME
    record = json.loads((launcher.runs.parent / "records" / f"{NAME}.json").read_text())
    assert (record["steps"], record["row"], len(record["sessions"])) == (150, "wrn_40_1", 2)
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("| WRN-40-1 |"))
    assert f"{record['test_error']:.2f}" in row and "n = 1" in row

    again = call_script(SCRIPT, *long)
    assert again.returncode == 0 and again.stdout.startswith("recorded")
    assert len(json.loads((launcher.only_run() / "sessions.json").read_text())) == 2


def test_what_has_finished_is_only_recorded(launcher, call_script, small, tmp_path):
    options, records = small[: small.index("--records")], tmp_path / "records"
    launcher.succeed(f"experiment={ROW}", *options, "seed=0", f"run={NAME}")
    assert call_script(SCRIPT, ROW, *small, "--dry-run").stdout.startswith("finished")
    done = call_script(SCRIPT, ROW, *small, "--note", "alone")
    assert done.returncode == 0, done.stderr
    assert json.loads((records / f"{NAME}.json").read_text())["note"] == "alone"
    other = [*small, "optimizer.momentum=0.5", f"runs={tmp_path / 'other'}"]
    refused = call_script(SCRIPT, ROW, *other)
    assert refused.returncode == 1 and f"{NAME}.json is a record of other settings" in refused.stderr
    assert not (tmp_path / "other").exists()
    assert len(json.loads((launcher.runs / NAME / "sessions.json").read_text())) == 1


def test_launcher_runs_seeds_in_a_sweep(launcher, call_script, small, tmp_path, train_here):
    done = call_script(SCRIPT, ROW, *small, "--seeds", "0,1", "--launcher", "basic")
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        name = f"table2-wrn_40_1-s{seed}"
        assert (launcher.runs / name / "result.json").exists()
        assert json.loads((tmp_path / "records" / f"{name}.json").read_text())["seed"] == seed
    assert "±" in done.stdout


def test_training_that_fails_is_not_recorded(call_script, small, tmp_path, train_here):
    done = call_script(SCRIPT, ROW, *small, "main_net.depth=11")
    assert done.returncode == 1 and "recorded as" not in done.stdout
    assert not (tmp_path / "records").exists()


def test_a_run_that_fails_does_not_hold_up_the_others(call_script, small, tmp_path, train_here, monkeypatch):
    train = train_command.run_training

    def fail_with_seed_0(*commands):
        if "seed=0" in commands[0]:
            sys.exit(1)
        train(*commands)

    monkeypatch.setattr(train_command, "run_training", fail_with_seed_0)
    assert call_script(SCRIPT, ROW, *small, "--seeds", "0,1").returncode == 1
    assert [path.stem for path in (tmp_path / "records").iterdir()] == ["table2-wrn_40_1-s1"]


def test_plan_of_a_table(call_script, tmp_path):
    done = call_script(SCRIPT, "table7", "--seeds", "0,5", "--dry-run", f"runs={tmp_path}")
    planned = [line.split(",")[0].split() for line in done.stdout.splitlines()]
    assert [place for _, *place in planned] == [
        [f"table7/{network}", f"seed={seed}"] for network in ("mnist_convnet", "hyper_mnist_convnet") for seed in (0, 5)
    ]
    assert [state for state, *_ in planned[:2]] == ["recorded", "missing"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table2/wrn_16",), ("table2/wrn_16", "table2/wrn_40_1")),
        (("shakespeare",), ("shakespeare stands for no row",)),
        ((ROW, "steps=-5"), ("steps is -5",)),
        ((ROW, "seed=3"), ("seed=3", "--seeds")),
        ((ROW, "--launcher", "nowhere"), ("nowhere", "basic")),
    ],
)
def test_mistakes(arguments, words, assert_refused):
    assert_refused(SCRIPT, *arguments, "--dry-run", words=words)
