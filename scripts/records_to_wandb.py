"""Make W&B runs of the records in results/runs/, to compare your own runs with ours in one dashboard.

    python -m scripts.records_to_wandb [RECORD.json ...] [--to runs/recorded]

Each record becomes an offline run with its settings, its validations and its final figures. It has no pictures and none
of the rows between, and its job type says what it is: `record`. Runs that exist already stay as they are.
"""

import argparse
from pathlib import Path

from scripts.record_result import check_record
from scripts.train_command import PROJECT
from training.command_line import one_line_errors
from training.json_files import read_json
from training.wandb_logger import WandbLogger

ABOUT = ("command", "commit", "versions", "hardware", "precision", "seconds", "best_step", "note")


def to_wandb(path: Path, to: Path) -> Path:
    """Make a W&B run of one record, unless it exists; return its directory, `to`/NAME."""
    record = read_json(path, dict)
    check_record(path, record)
    run, settings = to / record["name"], record["settings"]
    if not (run / "wandb").exists():
        run.mkdir(parents=True, exist_ok=True)
        config = settings | {"record": {key: record[key] for key in ABOUT if key in record}}
        tags = [settings[part]["name"] for part in ("dataset", "main_net", "hypernet")]
        about = {"project": "hypernetworks", "entity": None, "group": record["table"], "job_type": "record"}
        logger = WandbLogger(run, record["curve"], "offline", config=config, tags=tags, **about)
        logger.summary({key: record[key] for key in record if key.startswith(("test_", "validation_", "parameters"))})
        logger.finish()
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
