"""Make W&B runs of the records in results/runs/, to compare your own runs with ours in one dashboard.

    python -m scripts.records_to_wandb [RECORD.json ...] [--to runs/recorded]

Each record becomes an offline run with its settings, its validations and its final figures. It has no pictures and none
of the rows between, and its job type says what it is: `record`. Runs that exist already stay as they are.
"""

import argparse
import json
from pathlib import Path

from hypernets import UserError
from training.command_line import one_line_errors
from training.wandb_logger import WandbLogger

PROJECT = Path(__file__).resolve().parent.parent
ABOUT = ("command", "commit", "versions", "hardware", "precision", "seconds", "best_step", "note")


def to_wandb(path: Path, to: Path) -> Path:
    """Make a W&B run of one record, unless it exists; return its directory, `to`/NAME."""
    try:
        record = json.loads(path.read_text())
        settings, curve = record["settings"], sorted(record["curve"], key=lambda row: row["step"])
        tags = [settings[part]["name"] for part in ("dataset", "main_net", "hypernet")]
        name, group, parameters = record["name"], record["table"], record["parameters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a record of a run ({error!r}); give one like those in results/runs/.") from None
    if name != path.stem:  # the name becomes a directory, which must not lead elsewhere
        raise UserError(f"{path} is not a record under its own name, {name!r}; rename it.")
    run = to / name
    if not (run / "wandb").exists():
        run.mkdir(parents=True, exist_ok=True)
        config = settings | {"record": {key: record[key] for key in ABOUT if key in record}}
        about = {"project": "hypernetworks", "entity": None, "group": group, "job_type": "record", "tags": tags}
        logger = WandbLogger(run, curve, "offline", config=config, **about)
        figures = {key: record[key] for key in record if key.startswith(("test_", "validation_"))}
        logger.summary(figures | {"parameters": parameters})
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
