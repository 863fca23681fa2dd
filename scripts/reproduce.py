"""Train and record the rows of the tables that are missing; the same command resumes where it was stopped.

    python -m scripts.reproduce table2 --dry-run                # what would run: every row of Table 2
    python -m scripts.reproduce table2                          # run what has no record yet, one after the other
    python -m scripts.reproduce table3/lstm_256 table3/hyperlstm_256 --seeds 0,1,2
    python -m scripts.reproduce table2 --launcher slurm         # as jobs, by Hydra's launcher of that name
    python -m scripts.reproduce table2/wrn_40_1 logger=none     # overrides of train.py go to every run

Each experiment and seed is a run with a name, such as runs/table3-lstm_256-s0. What has a record with the same settings
is not run again; this repository comes with its own, so to train everything anew, name another folder: --records mine.
"""

import argparse
import itertools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hypernets import UserError
from scripts.make_pages import figure_lines
from scripts.paper_tables import ROWS, TABLES
from scripts.record_result import Record, read_records, record_run, row_of
from scripts.taxonomy_rows import EXPERIMENTS
from scripts.train_command import PROJECT, compose, run_training
from training.command_line import key_of_override, one_line_errors
from training.run import CONFIG, RESULT, path_of_run, read_result, read_settings
from training.settings import CHANGE_NOTHING, check_settings, what_counts

FIXED = ("experiment", "seed", "run", "resume")  # what this program sets itself
MAY_GROW = (*CHANGE_NOTHING, "steps", "validate_every")


class Job(NamedTuple):
    """An experiment with a seed, the command line of train.py for it, and the settings that this leads to."""

    experiment: str
    command: tuple[str, ...]
    settings: dict[str, Any]


def jobs_of(asked: Sequence[str], seeds: Sequence[str], overrides: Sequence[str]) -> list[Job]:
    """The jobs of experiments and tables; a table stands for the paper's rows."""
    if not asked:
        raise UserError(f"Name an experiment, such as table2/wrn_40_1, or a table: {', '.join(TABLES)} or taxonomy.")
    if fixed := [override for override in overrides if key_of_override(override) in FIXED]:
        raise UserError(f"Leave out {fixed[0]}; it follows from the experiment and from --seeds.")
    rows = [*(row.experiment for row in ROWS), *(f"taxonomy/{name}" for name in EXPERIMENTS)]
    experiments = [row for name in asked for row in ([row for row in rows if row.startswith(name + "/")] or [name])]
    jobs = []
    for experiment in dict.fromkeys(experiments):
        for seed in dict.fromkeys(seeds):
            name = f"run={experiment.replace('/', '-')}-s{seed}"
            command = (f"experiment={experiment}", *overrides, f"seed={seed}", name)
            settings = compose(command)
            check_settings(settings)
            if row_of(settings) not in rows:
                raise UserError(f"{experiment} stands for no row of a table; run it with train.py.")
            jobs.append(Job(experiment, command, settings))
    return jobs


def state_of(job: Job, records: Sequence[Record]) -> str:
    """How far a job is: "recorded", "finished", "stopped" or "missing"."""
    if any(what_counts(recorded["settings"]) == what_counts(job.settings) for recorded in records):
        return "recorded"
    run = path_of_run(job.settings)
    if not (run / CONFIG).exists():
        return "missing"
    if what_counts(read_settings(run), MAY_GROW) != what_counts(job.settings, MAY_GROW):
        raise UserError(f"The run {run} has other settings than asked for; choose another folder with runs=FOLDER.")
    done = read_result(run)["steps"] if (run / RESULT).exists() else 0
    return "finished" if done >= job.settings["steps"] else "stopped"


def sweeps(jobs: Sequence[Job], launcher: str) -> list[tuple[str, ...]]:
    """Command lines that send jobs to a launcher of Hydra's: one sweep over the seeds per experiment."""
    commands = []
    for experiment, group in itertools.groupby(jobs, lambda job: job.experiment):
        first, *others = group
        seeds = ",".join(str(job.settings["seed"]) for job in (first, *others))
        name = f"run='{experiment.replace('/', '-')}-s${{seed}}'"
        commands.append(("-m", f"hydra/launcher={launcher}", *first.command[:-2], f"seed={seeds}", name))
    return commands


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", metavar="EXPERIMENT, TABLE or KEY=VALUE")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run")
    parser.add_argument("--launcher", help="one of Hydra's, such as slurm")
    parser.add_argument("--records", type=Path, default=PROJECT / "results" / "runs", help="where records are kept")
    parser.add_argument("--note", help="kept in the records, such as what else the machine is doing")
    arguments = parser.parse_intermixed_args()
    with one_line_errors("reproduce"):
        overrides = [each for each in arguments.what if "=" in each or each.startswith("~")]
        experiments, seeds = [each for each in arguments.what if each not in overrides], arguments.seeds.split(",")
        if not all(seed.isdecimal() for seed in seeds):
            raise UserError(f"--seeds is {arguments.seeds!r}; it must be whole numbers with commas, such as 0,1,2.")
        if arguments.launcher:
            compose([f"hydra/launcher={arguments.launcher}"])  # which says so if there is none of that name
        jobs, records = jobs_of(experiments, seeds, overrides), read_records(arguments.records)
        left = []
        for job in jobs:
            state = state_of(job, records)
            print(f"{state:9s} {job.experiment} seed={job.settings['seed']}, {job.settings['steps']} steps", flush=True)
            left += [job] if state != "recorded" else []
        if arguments.dry_run:
            return
        for job in left:
            path = arguments.records / f"{path_of_run(job.settings).name}.json"
            if path.exists():
                raise UserError(f"{path} is a record of other settings; move it away, or choose another --records.")
        waiting = [job for job in left if state_of(job, records) != "finished"]
        one_by_one = [[job.command] for job in waiting]
        turns = [sweeps(waiting, arguments.launcher)] if arguments.launcher else one_by_one
        failed = None
        try:
            for commands in turns:
                try:
                    run_training(*commands)
                except SystemExit as end:  # the other runs do not depend on it, unless a signal ended it
                    if end.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
                        raise
                    failed = end
        finally:
            for job in left:
                if state_of(job, records) == "finished":
                    path = record_run(path_of_run(job.settings), arguments.records, arguments.note)
                    print(f"recorded as {path}", flush=True)
        if failed is not None:
            raise failed
        records = read_records(arguments.records)
        for table in TABLES.keys() & {job.settings["table"] for job in jobs}:
            print("\n".join(["", TABLES[table].title, "", *figure_lines(table, records)]))


if __name__ == "__main__":
    main()
