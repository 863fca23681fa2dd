"""Run what is missing of the paper's tables, one row after the other, and end with the tables.

    python scripts/reproduce.py table2 --budget cpu --dry-run       # what would run, and for how long
    python scripts/reproduce.py table2 --budget cpu                 # go on where it stopped, if it was stopped
    python scripts/reproduce.py table7 --budget paper --seeds 0,1,2
    python scripts/reproduce.py table3 --budget cpu --rows lstm_1000,layer_norm_hyperlstm_1000 units.cpu=512
    python scripts/reproduce.py all --budget paper --launcher slurm  # each row a job, by Hydra's launcher

Overrides of train.py may follow; they go to every row. A row is there when --records has a record of the same command
(but for runs, logger and compile); otherwise its run under runs/ is looked for: one that finished is recorded, one that
was stopped is resumed. This repository comes with the records of its own results: to train everything anew, name other
folders for both, as --records my_results runs=my_runs.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from scripts import make_tables
from scripts.make_tables import meaning, recorded_meaning
from scripts.paper_tables import ROWS
from scripts.record_result import record
from scripts.training_process import PROJECT, run_training
from training.command_line import one_line_errors
from training.resume import place_of_runs
from training.run_directory import OVERRIDES, RESULT, RESUMED_WITH, SESSIONS, read_json

RECORDS = PROJECT / "results" / "runs"


@dataclass(frozen=True)
class Job:
    """A row of a table with a budget and a seed: the overrides of train.py."""

    experiment: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far a job has come.

    Attributes:
        state: "recorded", "finished" (but not recorded), "stopped" or "missing".
        run: the record or the run directory, if there is one.
        steps: how many of them are done.
        seconds_per_step: of a stopped run so far, its start included.
    """

    state: str
    run: Path | None = None
    steps: int = 0
    seconds_per_step: float | None = None


def jobs_of(
    table: str, budget: str, seeds: Sequence[int], rows: Sequence[str] | None, overrides: Sequence[str]
) -> list[Job]:
    """The jobs of a table, or of "all", in the paper's order.

    Raises:
        ValueError: `rows` has a name that is no row of the table.
    """
    experiments = [row.experiment for row in ROWS if table in ("all", row.experiment.partition("/")[0])]
    if rows is not None:
        names = {experiment.partition("/")[2]: experiment for experiment in experiments}
        if unknown := [row for row in rows if row not in names]:
            raise ValueError(f"{table} has no row {unknown[0]!r}; its rows are {', '.join(names)}.")
        experiments = [names[row] for row in rows]
    return [
        Job(experiment, (f"experiment={experiment}", f"budget={budget}", *overrides, *([f"seed={seed}"] * (seed != 0))))
        for seed in seeds
        for experiment in experiments
    ]


def progress(job: Job, records: Path, runs: Path, steps: int) -> Progress:
    """Look for a job among the records and then, the last one first, among the run directories."""
    for path in sorted(records.glob("*.json")):
        recorded = read_json(path)
        if recorded_meaning(recorded) == meaning(job.overrides) and recorded["steps"] >= steps:
            return Progress("recorded", path, steps)
    for path in sorted(runs.glob(f"*/{OVERRIDES}"), key=lambda path: path.stat().st_mtime, reverse=True):
        run = path.parent
        resumed_with = [each for each in read_json(run / RESUMED_WITH, []) if not each.startswith("budget.steps=")]
        asked_for = meaning([*read_json(path), *resumed_with])
        if asked_for == meaning(job.overrides) and any(run.glob("checkpoint*.pt")):
            if read_json(run / RESULT, {"steps": 0})["steps"] >= steps:
                return Progress("finished", run, steps)
            sessions = read_json(run / SESSIONS, [])
            trained = sum(session["last_step"] - session["first_step"] for session in sessions)
            seconds = sum(session["seconds"] for session in sessions)
            done = max((session["last_step"] for session in sessions), default=0)
            return Progress("stopped", run, done, seconds / trained if trained else None)
    return Progress("missing")


def settings_of(job: Job) -> Any:
    """The configuration that a job leads to."""
    with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        return hydra.compose("train", list(job.overrides))


def examples_per_step(dataset: Mapping[str, Any]) -> int:
    """Images, or characters, of a training step."""
    return dataset["batch_size"] * dataset.get("sequence_length", 1)


def seconds_per_recorded_step(experiment: str, settings: Mapping[str, Any], records: Path) -> float | None:
    """Of the fastest recorded run of an experiment at the same width, on whatever machine it ran."""
    speeds = [
        run["seconds"] / run["curve"][-1]["examples"] * examples_per_step(settings["dataset"])
        for run in make_tables.read_records(records)[experiment]
        if run["settings"]["main_net"]["label"] == settings["main_net"]["label"]
    ]
    return min(speeds, default=None)


def duration(seconds: float) -> str:
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def plan(jobs: Sequence[Job], records: Path, runs: Path) -> list[Progress]:
    """Print what there is of each job and what is left to do; return the former."""
    found, expected, unknown = [], 0.0, 0
    for job in jobs:
        settings = settings_of(job)
        steps = settings.budget.steps
        found.append(now := progress(job, records, runs, steps))
        line = f"{now.state:9s} {' '.join(job.overrides)}"
        if now.run is not None:
            line += f"  [{now.run}]"
        if left := steps - now.steps:
            line += f"  {left:,} steps"
            speed = now.seconds_per_step or seconds_per_recorded_step(job.experiment, settings, RECORDS)
            line += f", about {duration(left * speed)}" if speed else ", for an unknown time"
            expected += left * (speed or 0)
            unknown += not speed
        print(line)
    known = f"about {duration(expected)} at the speed of the runs so far" if expected else "nothing to estimate"
    print(f"In all {known}" + (f", without {unknown} rows that were never run at this width." if unknown else "."))
    return found


def launch(jobs: Sequence[Job], launcher: str) -> None:
    """Send jobs to a launcher of Hydra's, one sweep for those that differ in the experiment alone; wait for them."""
    sweeps: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        sweeps.setdefault(job.overrides[1:], []).append(job.experiment)
    for overrides, experiments in sweeps.items():
        run_training(["-m", f"hydra/launcher={launcher}", f"experiment={','.join(experiments)}", *overrides])


def bring_to_an_end(job: Job, runs: Path, records: Path, note: str | None) -> None:
    """Train a job, from where it stopped if it was begun, and record it.

    Raises:
        SystemExit: the training failed or was stopped.
    """
    steps = settings_of(job).budget.steps
    now = progress(job, records, runs, steps)
    if now.state == "recorded":
        return
    if now.state != "finished":
        run_training(["-r", str(now.run)] if now.state == "stopped" else job.overrides)
        now = progress(job, records, runs, steps)
        assert now.state == "finished", f"{job} left no finished run under {runs}"
    print(f"recorded as {record(now.run, records, note)}", flush=True)
    if records.resolve() == RECORDS:
        make_tables.write(PROJECT)


def numbers(text: str) -> list[int]:
    """Seeds from a text such as "0,1,2".

    Raises:
        ValueError: it is none.
    """
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {text!r}; it must be whole numbers with commas between them.") from None


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*make_tables.TITLES, "all"])
    parser.add_argument("overrides", nargs="*", help="of train.py, such as dataset=cifar10_arrays")
    parser.add_argument("--budget", required=True, help="a budget of configs/budget/: paper, cpu or smoke")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--rows", help="only these rows of the table, such as lstm_1000,layer_norm_hyperlstm_1000")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run, and for how long")
    parser.add_argument("--launcher", help="of Hydra's, such as slurm, for what was never begun")
    parser.add_argument("--records", type=Path, default=RECORDS, help="where finished runs are recorded")
    parser.add_argument("--note", help="kept in the records, such as what else the machine is doing")
    arguments = parser.parse_intermixed_args()
    with one_line_errors("reproduce.py"):
        rows = arguments.rows.split(",") if arguments.rows else None
        jobs = jobs_of(arguments.table, arguments.budget, numbers(arguments.seeds), rows, arguments.overrides)
        runs = PROJECT / place_of_runs(arguments.overrides)
        found = plan(jobs, arguments.records, runs)
        if arguments.dry_run:
            return
        missing = [job for job, now in zip(jobs, found, strict=True) if now.state == "missing"]
        if arguments.launcher and missing:
            launch(missing, arguments.launcher)
        for job in jobs:
            bring_to_an_end(job, runs, arguments.records, arguments.note)
        records = make_tables.read_records(arguments.records)
        for table in make_tables.TITLES:
            if arguments.table in ("all", table):
                print("\n".join(["", make_tables.TITLES[table], *make_tables.table_lines(table, records)]))


if __name__ == "__main__":
    main()
