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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from scripts.make_tables import figures_of
from training.command_line import one_line_errors
from training.run_directory import read_json
from training.wandb_logger import WandbLogger

ABOUT = ("command", "commit", "versions", "hardware", "precision", "seconds", "best_step", "note")


def to_wandb(path: Path, to: Path) -> Path:
    """Make a W&B run of one record, unless there is one; return its directory, `to`/NAME.

    Raises:
        ValueError: the file is no record.
    """
    try:
        record = read_json(path)
        name, settings, curve, figures = record["name"], record["settings"], record["curve"], figures_of(record)
        parameters = record["parameters"]
        if name != path.stem:  # the name leads to a directory that is removed: it must not lead elsewhere
            raise ValueError
        group, tags, project = (settings["logger"][key] for key in ("group", "tags", "project"))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise ValueError(f"{path} is not a record of a run; results/runs/ has ours, see record_result.py.") from None
    run = to / name
    if run.exists():
        return run
    unfinished = to / f".{name}"  # a name for the time until it is whole
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    logger = WandbLogger(
        unfinished,
        mode="offline",
        project=project,
        entity=None,
        name=name,
        group=group,
        job_type="record",
        tags=tags,
        config=settings | {"record": {key: record[key] for key in ABOUT if key in record}},
    )
    for row in curve:
        logger.log(row)
    logger.summary(figures | {"parameters": parameters})
    logger.finish()
    unfinished.rename(run)
    return run


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ours = Path(__file__).resolve().parent.parent / "results" / "runs"
    parser.add_argument("records", type=Path, nargs="*", default=sorted(ours.glob("*.json")))
    parser.add_argument("--to", type=Path, default=Path("runs/recorded"))
    arguments = parser.parse_args()
    with one_line_errors("records_to_wandb.py"):
        for path in arguments.records:
            print(to_wandb(path, arguments.to), flush=True)


if __name__ == "__main__":
    main()
