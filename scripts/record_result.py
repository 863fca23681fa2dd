"""Copy what a finished run shows into results/runs/, a few KB for each run.

    python scripts/record_result.py runs/NAME [...] [--to results/runs] [--note "..."]

A record is the run's result.json, without the places of its data, with the processes that trained it, its learning
curve (validations only) and an optional note, such as what else the machine was doing.
"""

import argparse
import json
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # the checkout, for its packages

from scripts.paper_tables import experiment_of
from scripts.records import read_records, require_new
from training.command_line import one_line_errors
from training.run_directory import RESULT, SESSIONS, read_json, read_rows


def record(run: Path, to: Path, note: str | None) -> Path:
    """Write the record of one run; return its path.

    Raises:
        ValueError: the run has not finished or is of no row of a table, or there is another record of its name or of
            the same settings and seed.
    """
    if not (run / RESULT).exists():
        raise ValueError(
            f"{run} has no {RESULT}: it is not a run or has not finished; resume it with train.py -r {run}."
        )
    result = read_json(run / RESULT)
    try:
        experiment = experiment_of(result["command"])
    except ValueError as problem:
        raise ValueError(f"{run} has no place among the records: {problem}") from None
    curve = [row for row in read_rows(run) if any(name.startswith("validation/") for name in row)]
    for place in ("root", "path"):
        result["settings"]["dataset"].pop(place, None)
    result["sessions"] = [
        {key: session[key] for key in ("commit", "first_step", "last_step", "seconds")}
        for session in read_json(run / SESSIONS)
    ]
    content = json.dumps(result | ({"note": note} if note else {}) | {"curve": curve}, indent=1) + "\n"
    path = to / f"{result['name']}.json"
    if path.exists() and path.read_text() != content:
        raise ValueError(f"{path} exists with other content; remove it first if it should be replaced.")
    others = [other for other in read_records(to)[experiment] if other["name"] != result["name"]]
    require_new(path, result, others)
    to.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, default=PROJECT / "results" / "runs")
    parser.add_argument("--note")
    arguments = parser.parse_args()
    with one_line_errors("record_result.py"):
        for run in arguments.runs:
            print(record(run, arguments.to, arguments.note))


if __name__ == "__main__":
    main()
