"""Run what is missing of the paper's tables, one row after the other, and end with the tables.

    python scripts/reproduce.py table2 --budget cpu --dry-run       # what would run, and for how long
    python scripts/reproduce.py table2 --budget cpu                 # go on where it stopped, if it was stopped
    python scripts/reproduce.py table7 --budget paper --seeds 0,1,2
    python scripts/reproduce.py table3 --budget cpu --rows lstm_1000,layer_norm_hyperlstm_1000 units.cpu=512
    python scripts/reproduce.py all --budget paper --launcher slurm  # each row a job, by Hydra's launcher

Overrides of train.py may follow; they go to every row. A row is there when --records has a record of the same settings
(scripts/records.py says which count); otherwise its run under runs/ is looked for: one that finished is recorded, one
that was stopped is resumed, unless a launcher is named, which runs what was never begun. This repository comes with the
records of its own results: to train everything anew, name other folders for both, as
--records my_results runs=my_runs.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from models import CHARACTER_MODELS
from scripts import make_tables
from scripts.count_parameters import count_character_model
from scripts.paper_tables import ROWS
from scripts.record_result import record
from scripts.records import Record, Records, identity, read_records
from scripts.training_process import PROJECT, run_training
from training.command_line import one_line_errors
from training.resume import key_of_override, place_of_runs
from training.run_directory import OVERRIDES, RESULT, RESUMED_WITH, SESSIONS, read_json, read_settings

RECORDS = PROJECT / "results" / "runs"
# What may change at a resume without making the run another one than the row.
NEUTRAL = ("runs", "logger", "compile", "device", "dataset.root", "dataset.path")
NEUTRAL += ("budget.log_every", "budget.checkpoint_every")


@dataclass(frozen=True)
class Job:
    """A row of a table with a budget and a seed.

    Attributes:
        experiment: the row.
        overrides: of train.py, for the row, the seed and what else was asked for.
        settings: the configuration that they lead to, as plain values.
    """

    experiment: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.settings["budget"]["steps"]


@dataclass(frozen=True)
class Progress:
    """How far a job has come.

    Attributes:
        state: "recorded", "finished" (but not recorded), "stopped" or "missing".
        run: the record's name or the run directory, if there is one.
        steps: how many of them are done.
        seconds_per_step: of a stopped run so far, its start included.
    """

    state: str
    run: str | Path | None = None
    steps: int = 0
    seconds_per_step: float | None = None


def jobs_of(
    table: str, budget: str, seeds: Sequence[int], rows: Sequence[str] | None, overrides: Sequence[str]
) -> list[Job]:
    """The jobs of a table, or of "all", in the paper's order.

    Raises:
        ValueError: `rows` has a name that is no row of the table, or `overrides` set the seed.
    """
    experiments = [row.experiment for row in ROWS if table in ("all", row.experiment.partition("/")[0])]
    if rows is not None:
        names = {experiment.partition("/")[2]: experiment for experiment in experiments}
        if unknown := [row for row in rows if row not in names]:
            raise ValueError(f"{table} has no row {unknown[0]!r}; its rows are {', '.join(names)}.")
        experiments = [names[row] for row in rows]
    if any(key_of_override(override) == "seed" for override in overrides):
        raise ValueError("The seed of every row is set by --seeds; leave seed= out.")
    jobs = []
    with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        for seed in dict.fromkeys(seeds):
            for experiment in dict.fromkeys(experiments):
                own = (f"experiment={experiment}", f"budget={budget}", *overrides, f"seed={seed}")
                settings = OmegaConf.to_container(hydra.compose("train", list(own)), resolve=True)
                jobs.append(Job(experiment, own, settings))
    return jobs


def progress(job: Job, records: Records, runs: Path) -> Progress:
    """Look for a job among the records, then among the run directories that finished, then among the others."""
    for recorded in records[job.experiment]:
        if identity(recorded["settings"]) == identity(job.settings):
            return Progress("recorded", recorded["name"], job.steps)
    begun = [path.parent for path in runs.glob(f"*/{OVERRIDES}") if is_of(path.parent, job)]
    for run in begun:
        if (run / RESULT).exists():
            return Progress("finished", run, job.steps)
    if not begun:
        return Progress("missing")
    run = max(begun, key=lambda run: (run / OVERRIDES).stat().st_mtime)
    sessions = read_json(run / SESSIONS, [])
    trained = sum(session["last_step"] - session["first_step"] for session in sessions)
    seconds = sum(session["seconds"] for session in sessions)
    done = max((session["last_step"] for session in sessions), default=0)
    return Progress("stopped", run, done, seconds / trained if trained else None)


def is_of(run: Path, job: Job) -> bool:
    """Whether a run directory is a job's, from its first step to its last, and has a checkpoint to go on from."""
    resumed_with = map(key_of_override, read_json(run / RESUMED_WITH, []))
    return (
        f"experiment={job.experiment}" in read_json(run / OVERRIDES)
        and any(run.glob("checkpoint*.pt"))  # before anything else is read: a run killed at its start has little
        and identity(read_settings(run)) == identity(job.settings)
        and all(key in NEUTRAL for key in resumed_with)
    )


def examples_per_step(dataset: Mapping[str, Any]) -> int:
    """Images, or characters, of a training step."""
    return dataset["batch_size"] * dataset.get("sequence_length", 1)


def seconds_per_example(record: Record) -> float:
    """Of a recorded run, on whatever machine it ran."""
    return record["seconds"] / record["curve"][-1]["examples"]


def estimate(job: Job, recorded: Records) -> tuple[float | None, bool]:
    """Seconds of a training step by the recorded runs, if they tell, and whether that is rough.

    Of the fastest run of the row at the same width; of a language model that never ran at its width, of the recorded
    one nearest in size, in proportion to the parameters.
    """
    main_net, dataset = job.settings["main_net"], job.settings["dataset"]
    of_the_row = [
        seconds_per_example(record)
        for record in recorded[job.experiment]
        if record["settings"]["main_net"]["label"] == main_net["label"]
    ]
    if of_the_row:
        return min(of_the_row) * examples_per_step(dataset), False
    models = [
        record
        for records in recorded.values()
        for record in records
        if record["settings"]["main_net"]["name"] in CHARACTER_MODELS
    ]
    if main_net["name"] not in CHARACTER_MODELS or not models:
        return None, True
    parameters = count_character_model(job.settings)
    nearest = min(models, key=lambda record: abs(math.log(record["parameters"] / parameters)))
    return seconds_per_example(nearest) / nearest["parameters"] * parameters * examples_per_step(dataset), True


def duration(seconds: float) -> str:
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def plan(jobs: Sequence[Job], records: Records, runs: Path) -> list[Progress]:
    """Print what there is of each job and what is left to do; return the former."""
    found, expected, unknown = [], 0.0, 0
    ours = read_records(RECORDS)
    for job in jobs:
        found.append(now := progress(job, records, runs))
        line = f"{now.state:9s} {' '.join(job.overrides)}"
        if now.run is not None:
            line += f"  [{now.run}]"
        if left := job.steps - now.steps:
            line += f"  {left:,} steps"
            speed, rough = (now.seconds_per_step, False) if now.seconds_per_step else estimate(job, ours)
            about = "roughly" if rough else "about"
            line += f", {about} {duration(left * speed)}" if speed else ", for an unknown time"
            expected += left * (speed or 0)
            unknown += not speed
        print(line)
    known = f"about {duration(expected)} at the speed of the runs so far" if expected else "nothing to estimate"
    print(f"In all {known}" + (f", without {unknown} rows that nothing was recorded of." if unknown else "."))
    return found


def launch(jobs: Sequence[Job], launcher: str) -> None:
    """Send jobs to a launcher of Hydra's, in one sweep if the same rows miss the same seeds; wait for them.

    Raises:
        SystemExit: one of them failed; the others have run.
    """
    seeds_of: dict[str, list[str]] = {}
    for job in jobs:
        seeds_of.setdefault(job.experiment, []).append(str(job.settings["seed"]))
    sweeps: dict[str, list[str]] = {}
    for experiment, seeds in seeds_of.items():
        sweeps.setdefault(",".join(seeds), []).append(experiment)
    for seeds, experiments in sweeps.items():
        sweep = [f"experiment={','.join(experiments)}", *jobs[0].overrides[1:-1], f"seed={seeds}"]
        run_training(["-m", f"hydra/launcher={launcher}", *sweep])


def bring_to_an_end(job: Job, now: Progress, runs: Path, records: Path, note: str | None) -> None:
    """Train a job, from where it stopped if it was begun, and record it.

    Raises:
        SystemExit: the training failed or was stopped.
    """
    if now.state != "finished":
        run_training(["-r", str(now.run)] if now.state == "stopped" else job.overrides)
        now = progress(job, read_records(records), runs)
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
        records, runs = arguments.records, PROJECT / place_of_runs(arguments.overrides)
        found = plan(jobs, read_records(records), runs)
        if arguments.dry_run:
            return
        failure = None
        missing = [job for job, now in zip(jobs, found, strict=True) if now.state == "missing"]
        if arguments.launcher and missing:
            try:
                launch(missing, arguments.launcher)
            except SystemExit as reason:
                failure = reason  # what has finished is recorded all the same
        for job in jobs:
            now = progress(job, read_records(records), runs)
            if arguments.launcher and now.state in ("stopped", "missing"):
                print(f"{now.state:9s} {' '.join(job.overrides)}: without --launcher it goes on here", flush=True)
            elif now.state != "recorded":
                bring_to_an_end(job, now, runs, records, arguments.note)
        recorded = read_records(records)
        for table in make_tables.TITLES:
            if arguments.table in ("all", table):
                print("\n".join(["", make_tables.TITLES[table], *make_tables.table_lines(table, recorded)]))
        if failure:
            raise failure


if __name__ == "__main__":
    main()
