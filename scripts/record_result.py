"""Copy what a finished run shows into results/runs/, a few KB per run; and read these records.

    python -m scripts.record_result runs/NAME [...] [--to results/runs] [--note "..."]

A record is the run's result.json without the places of its data, with the processes that trained it, its learning
curve (only the validations) and an optional note, such as what else the machine was doing.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypernets import UserError
from hypernets.errors import without
from scripts.paper_tables import ROWS
from scripts.taxonomy_rows import EXPERIMENTS
from scripts.train_command import PROJECT
from training.checkpoint import writing
from training.command_line import one_line_errors
from training.json_files import NUMBER, check_shape, read_json, write_json
from training.run import RESULT, SESSIONS, read_result, read_rows
from training.settings import what_counts
from training.task import Metric
from training.tasks.character_modelling import CharacterModelling
from training.tasks.handwriting import Handwriting
from training.tasks.image_classification import ImageClassification
from training.tasks.image_drawing import ImageDrawing
from training.tasks.styled_diffusion import StyledDiffusion
from training.tasks.translation import Translation
from training.tasks.uncertain_regression import UncertainRegression

Record = dict[str, Any]
TASKS = (
    ImageClassification,
    CharacterModelling,
    Handwriting,
    ImageDrawing,
    StyledDiffusion,
    Translation,
    UncertainRegression,
)
TASK_METRICS = {task.metric.key: task.metric for task in TASKS}
SESSION = {"commit": str, "first_step": int, "last_step": int, "seconds": NUMBER}
SHAPE = {  # of a record; it may hold more
    **dict.fromkeys(("name", "table", "row", "command", "commit", "hardware", "precision"), str),
    **dict.fromkeys(("seed", "steps", "parameters"), int),
    **dict.fromkeys(("epochs", "seconds"), NUMBER),
    "versions": {"torch": str},
    "sessions": [SESSION],
    "settings": {"dataset": {"name": str, "batch_size": int}, "main_net": {"name": str}, "hypernet": {"name": str}},
}


def check_record(path: Path, record: Any) -> None:
    """Refuse what is not a record of a row of the paper's tables, or of results/taxonomy.md."""
    metrics = [key for key in TASK_METRICS if f"validation_{key}" in record]
    if len(metrics) != 1:
        wanted = " or ".join(f"validation_{key}" for key in TASK_METRICS)
        raise UserError(f"{path} is not a record of a run: it has no {wanted}.")
    if record.get("table") is None or record.get("row") is None:
        raise UserError(f"{path} belongs to no table; only runs of experiments of a table have records.")
    figures = {key: NUMBER for key in (f"validation_{metrics[0]}", f"test_{metrics[0]}") if key in record}
    points = [{"step": int, "examples": int, f"validation/{metrics[0]}": NUMBER}]
    check_shape(path, "it", record, SHAPE | figures | {"curve": points})
    name = record["name"]
    if not name or "/" in name or name.startswith("."):
        raise UserError(f"{path} is not a record of a run: its name is {name!r}, which is not the name of a file.")
    if row_of(record) not in [*(row.experiment for row in ROWS), *(f"taxonomy/{name}" for name in EXPERIMENTS)]:
        raise UserError(
            f"{path} belongs to no table: there is no row {row_of(record)} in the paper's tables or in ours."
        )


def require_new(path: Path, record: Record, others: Sequence[Record]) -> None:
    """Refuse a second record of a run, of which a table could show the better one."""
    key = key_of(record)
    for other in others:
        digests = {each["data"] for each in (other, record) if "data" in each}  # older records have none
        # The networks first: comparing them takes less time than putting together everything that counts.
        is_alike = all(other["settings"][net] == record["settings"][net] for net in ("main_net", "hypernet"))
        if is_alike and len(digests) < 2 and key_of(other) == key:
            raise UserError(f"{path} is of the same run as {other['name']}; keep one of them, whatever it says.")


def read_records(folder: Path) -> list[Record]:
    """The records in a folder, in the order of their names."""
    records: list[Record] = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path, dict)
        check_record(path, record)
        require_new(path, record, records)
        records.append(record)
    return records


def record_run(run: Path, to: Path, note: str | None = None) -> Path:
    """Write the record of one run; return its path."""
    record = read_result(run) | {"sessions": read_json(run / SESSIONS, [SESSION])} | ({"note": note} if note else {})
    record["curve"] = [row for row in read_rows(run) if any(key.startswith("validation/") for key in row)]
    check_record(run / RESULT, record)
    if any(session["last_step"] > record["steps"] for session in record["sessions"]):
        raise UserError(
            f"{run} has a result after {record['steps']} steps, but was then trained further; finish it with train.py "
            f"-r {run}."
        )
    record["sessions"] = [{key: session[key] for key in SESSION} for session in record["sessions"]]
    settings = without(record["settings"], "runs", "run", "resume")
    dataset = without(settings["dataset"], "root", "path")
    record["settings"] = settings | {"dataset": dataset}
    path = to / f"{record['name']}.json"
    if path.exists() and read_json(path, dict) != record:
        raise UserError(f"{path} exists with other content; remove it first if it should be replaced.")
    require_new(path, record, [other for other in read_records(to) if other["name"] != record["name"]])
    with writing(f"to the folder {to}", "choose another one with --to"):
        to.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return path


def key_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two records of the same run share: the settings that count. `precision=auto` may come to either type."""
    return what_counts(record["settings"])


def row_of(record: Mapping[str, Any]) -> str:
    """The row of a table that a record, or settings, belong to: TABLE/ROW."""
    return f"{record['table']}/{record['row']}"


def by_setting(records: Sequence[Record]) -> list[list[Record]]:
    """Put together the runs that differ only in the seed or the precision, which `precision=auto` leaves open."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        key = key_of(record) | {"seed": None, "precision": None}
        groups.setdefault(str(sorted(key.items())), []).append(record)
    return list(groups.values())


def metric_of(record: Record) -> Metric:
    """The metric of a record."""
    return next(metric for key, metric in TASK_METRICS.items() if f"validation_{key}" in record)


def peak_rate(record: Record) -> float:
    """The highest learning rate of a run."""
    schedule = record["settings"]["schedule"]
    return schedule.get("peak") or schedule.get("rate") or max(schedule.get("rates", [0.0]))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, default=PROJECT / "results" / "runs")
    parser.add_argument("--note")
    arguments = parser.parse_args()
    with one_line_errors("record_result"):
        for run in arguments.runs:
            print(record_run(run, arguments.to, arguments.note))


if __name__ == "__main__":
    main()
