"""Make W&B runs from the records in results/runs/, to compare your own runs with ours in one dashboard.

    python scripts/records_to_wandb.py [RECORD.json ...] [--to runs/recorded]

Each record becomes an offline run, grouped by table as the run was that it tells of. It is marked as what it is, by the
job type `record`: it has the settings, the learning curve (validations only) and the final figures, but not the rows
between, nor pictures. Runs that are there already are left as they are.
"""

import argparse
import shutil
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # the checkout, for its packages

from scripts.records import check_record, figures_of
from training.command_line import one_line_errors
from training.run_directory import read_json
from training.wandb_logger import WandbLogger

TAGS = (("dataset", "name"), ("main_net", "label"), ("hypernet", "name"), ("budget", "name"))  # as a run has them
ABOUT = ("command", "commit", "versions", "hardware", "precision", "seconds", "best_step", "note")


def to_wandb(path: Path, to: Path) -> Path:
    """Make a W&B run of one record, unless there is one; return its directory, `to`/NAME.

    Raises:
        ValueError: the file is no record.
    """
    try:
        record = read_json(path)
    except OSError as error:
        raise ValueError(f"{path} is not a record: {error.strerror}; results/runs/ has ours.") from None
    check_record(path, record)
    name, settings = record["name"], record["settings"]
    if name != path.stem:  # the name leads to a directory that is removed: it must not lead elsewhere
        raise ValueError(f"{path} is not a record under its own name, {name!r}; rename it.")
    run = to / name
    if run.exists():
        return run
    unfinished = to / f".{name}"  # a name for the time until it is whole
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    logger = WandbLogger(
        unfinished,
        mode="offline",
        project="hypernetworks",
        entity=None,
        name=name,
        group=record["table"],
        job_type="record",
        tags=[settings[group][key] for group, key in TAGS],
        config=settings | {"record": {key: record[key] for key in ABOUT if key in record}},
    )
    for row in record["curve"]:
        logger.log(row)
    logger.summary(figures_of(record) | {"parameters": record["parameters"]})
    logger.finish()
    unfinished.rename(run)
    return run


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="*", default=sorted((PROJECT / "results" / "runs").glob("*.json")))
    parser.add_argument("--to", type=Path, default=PROJECT / "runs" / "recorded")
    arguments = parser.parse_args()
    with one_line_errors("records_to_wandb.py"):
        for path in arguments.records:
            print(to_wandb(path, arguments.to), flush=True)


if __name__ == "__main__":
    main()
