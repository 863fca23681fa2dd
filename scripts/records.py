"""The records of finished runs in results/: what a record holds, and which records are of the same run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypernets import UserError
from scripts.paper_tables import ROWS
from training.json_files import NUMBER, check_shape, read_json
from training.settings import what_counts
from training.task import Metric
from training.tasks.character_modelling import CharacterModelling
from training.tasks.image_classification import ImageClassification

Record = dict[str, Any]
METRICS = {task.metric.key: task.metric for task in (ImageClassification, CharacterModelling)}
SHAPE = {  # of a record; it may hold more
    **dict.fromkeys(("name", "table", "row", "command", "commit", "hardware", "precision"), str),
    **dict.fromkeys(("seed", "steps", "parameters"), int),
    **dict.fromkeys(("epochs", "seconds"), NUMBER),
    "versions": {"torch": str},
    "sessions": [{"commit": str, "first_step": int, "last_step": int, "seconds": NUMBER}],
    "settings": {"dataset": {"name": str, "batch_size": int}, "main_net": {"name": str}, "hypernet": {"name": str}},
    "curve": [{"step": int, "examples": int}],
}


def check_record(path: Path, record: Any) -> None:
    """Refuse what is not a record of a row of the paper."""
    metrics = [key for key in METRICS if f"validation_{key}" in record]
    if len(metrics) != 1:
        raise UserError(
            f"{path} is not a record of a run: it has no {' or '.join(f'validation_{m}' for m in METRICS)}."
        )
    test = {f"test_{metrics[0]}": NUMBER} if f"test_{metrics[0]}" in record else {}
    points = [SHAPE["curve"][0] | {f"validation/{metrics[0]}": NUMBER}]
    check_shape(path, "it", record, SHAPE | test | {f"validation_{metrics[0]}": NUMBER, "curve": points})
    name = record["name"]
    if not name or "/" in name or name.startswith("."):
        raise UserError(f"{path} is not a record of a run: its name is {name!r}, which is not the name of a file.")
    if row_of(record) not in [row.experiment for row in ROWS]:
        raise UserError(f"{path} has no place: {row_of(record)} is not a row of the paper's tables.")


def read_records(folder: Path) -> list[Record]:
    """The records in a folder, in the order of their names."""
    records: list[Record] = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path, dict)
        check_record(path, record)
        require_new(path, record, records)
        records.append(record)
    return records


def require_new(path: Path, record: Record, others: list[Record]) -> None:
    """Refuse a second record of a run, of which a table could show the better one."""
    for other in others:
        if key_of(other) == key_of(record):
            raise UserError(f"{path} is of the same run as {other['name']}; keep one of them, whatever it says.")


def key_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two records of the same run share: the settings that count, and what `precision=auto` came to."""
    return what_counts(record["settings"]) | {"precision": record["precision"]}


def row_of(record: Mapping[str, Any]) -> str:
    """The row of the paper that a record, or settings, belong to: TABLE/ROW."""
    return f"{record['table']}/{record['row']}"


def by_setting(records: list[Record]) -> list[list[Record]]:
    """Put together the runs that differ only in the seed."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(sorted((key_of(record) | {"seed": None}).items())), []).append(record)
    return list(groups.values())


def metric_of(record: Record) -> Metric:
    """The metric of a record."""
    return next(metric for key, metric in METRICS.items() if f"validation_{key}" in record)


def peak_rate(record: Record) -> float:
    """The highest learning rate of a run."""
    schedule = record["settings"]["schedule"]
    return schedule.get("peak") or schedule.get("rate") or max(schedule.get("rates", [0.0]))
