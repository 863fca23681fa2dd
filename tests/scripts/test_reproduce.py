"""Running the rows of a table: what is there is not run again, what was stopped goes on."""

import json
import signal

import pytest
from omegaconf import OmegaConf

from scripts.paper_tables import ROWS
from scripts.records import read_records
from scripts.reproduce import RECORDS, jobs_of, progress

PROGRAM = ("scripts/reproduce.py",)
SMALL = ("dataset=cifar10_sample", "main_net.depth=10", "dataset.batch_size=8", "device=cpu", "logger=none")
SMALL += ("budget.steps=150", "budget.log_every=1", "budget.validate_every=150", "budget.checkpoint_every=150")
LANGUAGE = ("dataset=text", "units.smoke=8", "hyper_units.smoke=4", "compile=false", "logger=none", "device=cpu")
LANGUAGE += ("dataset.batch_size=4", "dataset.sequence_length=10", "dataset.warm_up=20", "budget.steps=2")


def listed(stdout: str, state: str) -> list[str]:
    """The experiments that a plan says are in a state."""
    return [line.split()[1].removeprefix("experiment=") for line in stdout.splitlines() if line.startswith(state)]


@pytest.fixture
def job():
    """A row with a seed."""
    (job,) = jobs_of("table7", "smoke", [1], ["mnist_convnet"], [])
    return job


@pytest.fixture
def make_run(tmp_path, job):
    """Makes what a run directory of the row holds: make_run(name, changes of its settings, ...)."""

    def make(name, changes=(), resumed_with=(), finished=True):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        settings = OmegaConf.merge(job.settings, OmegaConf.from_dotlist(list(changes)))
        (run / "config.yaml").write_text(OmegaConf.to_yaml(settings))
        (run / "overrides.json").write_text(json.dumps(job.overrides))
        (run / "resumed_with.json").write_text(json.dumps(resumed_with))
        (run / "checkpoint.pt").touch()
        if finished:
            (run / "result.json").write_text(json.dumps({"steps": job.steps}))
        return run

    return make


@pytest.mark.parametrize(
    ("changes", "resumed_with", "state"),
    [
        ([], [], "finished"),
        (["dataset.root=elsewhere", "logger.name=none", "compile=true"], [], "finished"),
        (["budget.log_every=9"], ["budget.log_every=9", "runs=elsewhere"], "finished"),
        (["schedule.rate=0.5"], [], "missing"),  # whatever its command line says
        (["seed=2"], [], "missing"),
        ([], ["schedule.rate=0.5"], "missing"),  # and set back since
    ],
)
def test_run_under_another_protocol_is_not_the_row(tmp_path, job, make_run, changes, resumed_with, state):
    run = make_run("one", changes, resumed_with)
    now = progress(job, read_records(tmp_path / "records"), tmp_path / "runs")
    assert (now.state, now.run) == (state, run if state == "finished" else None)


def test_finished_run_comes_before_a_newer_one_that_stopped(tmp_path, job, make_run):
    finished = make_run("first")
    make_run("second", finished=False)
    assert progress(job, read_records(tmp_path / "records"), tmp_path / "runs").run == finished


def test_run_killed_at_its_start_is_passed_over(tmp_path, job, make_run):
    run = make_run("killed", finished=False)
    for name in ("checkpoint.pt", "config.yaml"):
        (run / name).unlink()
    assert progress(job, read_records(tmp_path / "records"), tmp_path / "runs").state == "missing"


def test_record_counts_by_its_settings_wherever_the_data_lay(tmp_path):
    ours = read_records(RECORDS)
    moved = ["dataset=cifar10_arrays", "dataset.root=/elsewhere", "device=cpu", "logger=none"]
    for overrides, state in ((moved, "recorded"), ([*moved, "schedule.peak=0.1"], "missing"), ([], "missing")):
        (job,) = jobs_of("table2", "cpu", [0], ["wrn_40_1"], overrides)
        assert progress(job, ours, tmp_path).state == state


def test_dry_run_says_what_would_run(call_script, tmp_path):
    runs = f"runs={tmp_path}"
    done = call_script("reproduce.py", "all", "--budget", "paper", "--dry-run", "--records", tmp_path, runs)
    assert done.returncode in (0, None), done
    assert listed(done.stdout, "missing") == [row.experiment for row in ROWS]
    assert f"experiment=table2/hyper_wrn_40_1 budget=paper {runs} seed=0  672,000 steps, about" in done.stdout
    assert f"experiment=table4/lstm_2000 budget=paper {runs} seed=0  60,000 steps, roughly" in done.stdout
    assert "unknown" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("In all about")
    assert not list(tmp_path.iterdir())


def test_recorded_rows_are_there(call_script):
    arguments = ("table2", "--budget", "cpu", "dataset=cifar10_arrays", "--dry-run")
    done = call_script("reproduce.py", *arguments, "--rows", "wrn_40_1")
    assert listed(done.stdout, "recorded") == ["table2/wrn_40_1"]
    other = call_script("reproduce.py", *arguments, "--rows", "wrn_40_1", "--seeds", "5")
    assert listed(other.stdout, "recorded") == []


def test_goes_on_where_it_was_stopped_and_ends_with_the_table(launcher, call_script, tmp_path):
    records = tmp_path / "records"
    arguments = ("table2", "--budget", "smoke", "--rows", "wrn_40_1,hyper_wrn_40_1", "--records", str(records))
    arguments += (*SMALL, f"runs={launcher.runs}")
    process = launcher.start(*arguments, program=PROGRAM)
    launcher.wait_for_rows(process, 3)
    process.send_signal(signal.SIGINT)
    stopped = launcher.finish(process)
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr, stopped.stderr
    assert "Stopped at step" in stopped.stderr
    begun = launcher.only_run()
    planned = call_script("reproduce.py", *arguments, "--dry-run")
    assert listed(planned.stdout, "stopped") == ["table2/wrn_40_1"]
    assert listed(planned.stdout, "missing") == ["table2/hyper_wrn_40_1"]
    of_the_stopped, of_the_missing = planned.stdout.splitlines()[:2]  # no run of this depth is recorded
    assert " steps, about 0 h " in of_the_stopped and of_the_missing.endswith(" steps, for an unknown time")

    done = launcher.run(*arguments, program=PROGRAM)
    assert done.returncode == 0, done.stderr
    assert len(list(launcher.runs.iterdir())) == len(list(records.iterdir())) == 2
    record = json.loads((records / f"{begun.name}.json").read_text())
    assert (record["steps"], len(record["sessions"])) == (150, 2)
    for network in ("| WRN-40-1 | 6.73 |", "| Hyper WRN-40-1 | 8.02 |"):
        (row,) = (line for line in done.stdout.splitlines() if line.startswith(network))
        assert "not run" not in row and " 150 (" in row

    again = call_script("reproduce.py", *arguments)
    assert len(listed(again.stdout, "recorded")) == 2
    assert len(list(launcher.runs.iterdir())) == 2


def test_one_sweep_for_a_launcher(launcher, tmp_path):
    records = tmp_path / "records"
    (tmp_path / "my.txt").write_text("the quick brown fox\n" * 100)
    arguments = (
        "table3",
        f"dataset.path={tmp_path / 'my.txt'}",
        "--budget",
        "smoke",
        "--rows",
        "lstm_1000,hyperlstm_1000",
        "--seeds",
        "0,1",
    )
    arguments += ("--launcher", "basic", "--records", str(records), *LANGUAGE, f"runs={launcher.runs}")
    done = launcher.run(*arguments, program=PROGRAM)
    assert done.returncode == 0, done.stderr
    assert len(list((launcher.runs / "sweeps").iterdir())) == 1
    assert len(list(launcher.runs.glob("*/result.json"))) == 4
    recorded = [json.loads(path.read_text()) for path in records.iterdir()]
    assert sorted((record["settings"]["hypernet"]["name"], record["seed"]) for record in recorded) == [
        (hypernet, seed) for hypernet in ("hyperlstm", "none") for seed in (0, 1)
    ]
    assert (
        sum(line.startswith(("| LSTM, 1000", "| HyperLSTM")) and "±" in line for line in done.stdout.splitlines()) == 2
    )


def test_a_launcher_that_fails(launcher, call_script, tmp_path):
    arguments = ("table2", "--budget", "smoke", "--rows", "wrn_40_1", "--launcher", "nowhere", *SMALL)
    done = launcher.run(*arguments, "--records", str(tmp_path), f"runs={launcher.runs}", program=PROGRAM)
    assert done.returncode == 1 and "'nowhere'" in done.stderr, done.stderr
    assert "without --launcher it goes on here" in done.stdout and "| WRN-40-1 | 6.73 | not run |" in done.stdout
    assert not launcher.runs.exists(), "trained here instead"


def test_a_training_that_fails_is_not_recorded(launcher, tmp_path):
    settings = ("table2", "--budget", "smoke", *SMALL, "main_net.depth=11", f"runs={launcher.runs}")
    done = launcher.run(*settings, "--records", str(tmp_path / "records"), program=PROGRAM)
    assert done.returncode == 1
    assert done.stderr.startswith("train.py: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table2", "--budget", "cpu", "--rows", "wrn_16"), ("no row 'wrn_16'", "hyper_wrn_40_2")),
        (("table2", "--budget", "cpu", "--seeds", "1,x"), ("--seeds is '1,x'",)),
        (("table2", "--budget", "large"), ("no 'large'", "paper")),
        (("table2", "--budget", "cpu", "main_net.wdith=2"), ("wdith",)),
        (("table2", "--budget", "cpu", "--seeds", "0,1", "seed=3"), ("--seeds",)),
        (("table2", "--budget", "cpu", "--records", str(RECORDS.parent)), ("performance.json", "not a record")),
    ],
)
def test_mistakes(call_script, arguments, words):
    done = call_script("reproduce.py", *arguments, "--dry-run")
    assert done.returncode == 1
    assert done.stderr.startswith("reproduce.py: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
