"""Copy what a finished run shows into results/runs/, a few KB per run.

    python -m scripts.record_result runs/NAME [...] [--to results/runs] [--note "..."]

A record is the run's result.json without the places of its data, with the processes that trained it, its learning
curve (only the validations) and an optional note, such as what else the machine was doing.
"""

import argparse
import json
from pathlib import Path

from hypernets import UserError
from scripts.records import check_record, read_records, require_new
from scripts.train_command import PROJECT
from training.checkpoint import write_atomically
from training.command_line import one_line_errors
from training.json_files import read_json
from training.run import RESULT, SESSIONS, read_result, read_rows

PLACES = ("runs", "run", "resume")


def record(run: Path, to: Path, note: str | None = None) -> Path:
    """Write the record of one run; return its path."""
    curve = [row for row in read_rows(run) if any(key.startswith("validation/") for key in row)]
    content = read_result(run) | {"sessions": read_json(run / SESSIONS, list)} | ({"note": note} if note else {})
    content["curve"] = curve
    check_record(run / RESULT, content)
    sessions = [
        {key: each[key] for key in ("commit", "first_step", "last_step", "seconds")} for each in content["sessions"]
    ]
    settings = {key: value for key, value in content["settings"].items() if key not in PLACES}
    settings["dataset"] = {key: value for key, value in settings["dataset"].items() if key not in ("root", "path")}
    text = json.dumps(content | {"sessions": sessions, "settings": settings}, indent=1) + "\n"
    path = to / f"{content['name']}.json"
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path} exists with other content; remove it first if it should be replaced.")
    require_new(path, content, [other for other in read_records(to) if other["name"] != content["name"]])
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {to} ({error.strerror}); choose another one with --to.") from None
    write_atomically(path, text.encode())
    return path


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, default=PROJECT / "results" / "runs")
    parser.add_argument("--note")
    arguments = parser.parse_args()
    with one_line_errors("record_result"):
        for run in arguments.runs:
            print(record(run, arguments.to, arguments.note))


if __name__ == "__main__":
    main()
