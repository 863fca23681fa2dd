"""The records of finished runs, as scripts/record_result.py writes them, and which of them are the same run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.paper_tables import ROWS, experiment_of
from training.resume import FREE, flat
from training.run_directory import read_json

Record = dict[str, Any]
Records = dict[str, list[Record]]  # of each experiment
METRICS = {"error": 2, "bits_per_character": 3}  # digits after the point
NEEDED = (
    *("name", "command", "commit", "seed", "hardware", "versions", "precision", "steps", "epochs", "seconds"),
    *("parameters", "settings", "sessions", "curve"),
)
GROUPS = ("main_net", "hypernet", "dataset", "optimizer", "schedule")  # of settings


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of one experiment share if they are the same run: key -> value.

    These are the settings that a result depends on but for rounding, and not, say, where the data lies or how often
    something is logged.
    """
    values = {key: settings[key] for key in (*GROUPS, "seed", "split_seed", "precision")}
    values |= {f"budget.{key}": settings["budget"][key] for key in ("steps", "validate_every")}
    return {key: value for key, value in flat(values).items() if key not in FREE}


def read_records(folder: Path) -> Records:
    """The records of each experiment, in the order of their names.

    Raises:
        ValueError: a file that is no record, a record of no row of the paper, or two records of the same run.
    """
    records: Records = {row.experiment: [] for row in ROWS}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        check_record(path, record)
        try:
            others = records[experiment_of(record["command"])]
        except ValueError as problem:
            raise ValueError(f"The record {path} has no place: {problem}") from None
        require_new(path, record, others)
        others.append(record)
    return records


def require_new(path: Path, record: Record, others: list[Record]) -> None:
    """Refuse a second record of a run, of which a table could show the better one.

    Raises:
        ValueError: naming the other one.
    """
    for other in others:
        if key_of(other) == key_of(record):
            raise ValueError(f"{path} is of the same run as {other['name']}; keep one of them, whatever it says.")


def check_record(path: Path, record: Any) -> None:
    """Refuse what is no record.

    Raises:
        ValueError: saying what is missing.
    """
    missing = [key for key in NEEDED if key not in record] if isinstance(record, dict) else NEEDED
    if not missing:
        named = [f"{split}_{metric}" for metric in METRICS for split in ("test", "validation")]
        missing = [] if sum(name in record for name in named) == 2 else [" or ".join(named[::2])]
    if not missing:
        try:
            identity(record["settings"])
        except (KeyError, TypeError):
            missing = ["the settings of a run"]
    if missing:
        raise ValueError(f"{path} is not a record of a run, it has no {missing[0]}; see scripts/record_result.py.")


def key_of(record: Record) -> dict[str, Any]:
    """The `identity` of a record's run, and what `precision=auto` came to."""
    return identity(record["settings"]) | {"precision": record["precision"]}


def by_setting(records: list[Record]) -> list[list[Record]]:
    """Put together the runs that differ in the seed alone."""
    groups: Records = {}
    for record in records:
        groups.setdefault(str(sorted((key_of(record) | {"seed": None}).items(), key=str)), []).append(record)
    return list(groups.values())


def metric_of(record: Record) -> str:
    """Which metric the record has."""
    return next(metric for metric in METRICS if f"test_{metric}" in record)


def figures_of(record: Record) -> dict[str, float]:
    """The metric of the record on every split that it has, by the name in the record."""
    splits = ("test_", "validation_")
    return {key: record[key] for key in record if key.startswith(splits) and key.endswith(f"_{metric_of(record)}")}


def peak_rate(record: Record) -> float:
    """The highest learning rate of a run."""
    schedule = record["settings"]["schedule"]
    return schedule.get("peak") or schedule.get("rate") or max(schedule["rates"])
