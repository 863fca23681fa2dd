"""Make the pages and pictures of results/ and the figures in the README from the records there, and nothing else.

    python scripts/make_tables.py            # write them
    python scripts/make_tables.py --check    # only say which differ from the records; exit status 1 if any does

A row of the paper without a record says "not run". What the tables mean stands in results/comments/TABLE.md, which is
copied into the page. Records of runs come from scripts/record_result.py, performance.json from scripts/benchmark.py,
batch_norm_statistics.jsonl from the script of that name.
"""

import argparse
import hashlib
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from PIL import Image

from scripts.benchmarks import report
from scripts.paper_tables import ROWS, Row, experiment_of
from scripts.plot_curves import draw
from training.command_line import one_line_errors
from training.provenance import short
from training.run_directory import read_json, read_json_lines

TITLES = {
    "table2": "Table 2: CIFAR-10, error in percent",
    "table3": "Table 3: character-level Penn Treebank, bits per character",
    "table4": "Table 4: enwik8, bits per character",
    "table7": "Table 7: MNIST, error in percent",
}
METRICS = {"error": 2, "bits_per_character": 3}  # digits after the point
DATASETS = {"table2": "cifar10", "table3": "ptb_char", "table4": "enwik8", "table7": "mnist"}  # of the paper
EXAMPLES = {"error": "images", "bits_per_character": "characters"}
WITHOUT_EFFECT = ("runs", "logger", "compile")  # on what a run comes to, but for rounding
BEGIN, END = "<!-- made by scripts/make_tables.py -->", "<!-- end of what it made -->"


def read_records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of each experiment, in the order of their names.

    Raises:
        ValueError: a record of no row of the paper.
    """
    records: dict[str, list[dict[str, Any]]] = {row.experiment: [] for row in ROWS}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        try:
            recorded_meaning(record)
            records[experiment_of(record["command"])].append(record)
        except (KeyError, TypeError):
            raise ValueError(f"{path} is not a record of a run; see scripts/record_result.py.") from None
        except (ValueError, HydraException) as problem:
            raise ValueError(f"The record {path} has no place: {problem}") from None
    return records


def meaning(overrides: Sequence[str]) -> dict[str, Any]:
    """Key -> value of what makes two command lines the same run; a sweep writes false as False, for example."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = {"seed": 0} | {override.key_or_group: override.value() for override in parsed}
    return {key: value for key, value in values.items() if key not in WITHOUT_EFFECT}


def recorded_meaning(record: dict[str, Any]) -> dict[str, Any]:
    """The `meaning` of the command of a record."""
    return meaning(re.split(r" (?=[^ =]+=)", record["command"])[1:])  # without "python train.py"


def by_setting(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Put together the runs that differ in the seed alone."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        values = recorded_meaning(record) | {"seed": None, "split_seed": None, "steps": record["steps"]}
        groups.setdefault(str(sorted(values.items(), key=str)), []).append(record)
    return list(groups.values())


def metric_of(record: dict[str, Any]) -> str:
    """Which metric the record has."""
    return next(metric for metric in METRICS if f"test_{metric}" in record)


def figures_of(record: dict[str, Any]) -> dict[str, float]:
    """The metric of the record on every split that it has, by the name in the record."""
    return {key: record[key] for key in record if re.fullmatch(rf"(test|validation)_(\w+_)?{metric_of(record)}", key)}


def figure(runs: list[dict[str, Any]], key: str) -> str:
    """The mean of a figure, with the standard deviation where there are several runs."""
    digits = METRICS[metric_of(runs[0])]
    values = [run[key] for run in runs]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def difference(row: Row, runs: list[dict[str, Any]]) -> str:
    """Ours minus the paper's, on the test set; nothing if ours read other data (data/README.md)."""
    metric = metric_of(runs[0])
    if runs[0]["settings"]["dataset"]["name"] != DATASETS[row.experiment.partition("/")[0]]:
        return "other data"
    if f"test_lossless_{metric}" in runs[0]:
        return "altered test images"
    return f"{statistics.mean(run[f'test_{metric}'] for run in runs) - row.test:+.{METRICS[metric]}f}"


def what_ran(record: dict[str, Any]) -> str:
    """The main network, with its size, and the data set of a run."""
    return f"{record['settings']['main_net']['label']} on {record['settings']['dataset']['name']}"


def printed(row: Row) -> str:
    """The metric as printed in the paper."""
    return f"{row.test:.{2 if row.experiment.startswith(('table2', 'table7')) else 3}f}"


def table_lines(table: str, records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The rows of a table with the paper's figures and ours."""
    lines = [
        "| network | paper, test | ours, test | difference | ours, validation (paper's) | parameters, printed "
        "| counted | of our run | steps (paper's) | epochs (paper's) | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in (row for row in ROWS if row.experiment.startswith(table)):
        paper = f"| {row.network} | {printed(row)}"
        if not records[row.experiment]:
            lines.append(f"{paper} | not run | | | {row.parameters} | {row.counted:,} | | | | |")
        for runs in by_setting(records[row.experiment]):
            metric, first = metric_of(runs[0]), runs[0]
            validation = figure(runs, f"validation_{metric}") + (f" ({row.validation:.3f})" if row.validation else "")
            steps = f"{first['steps']:,}" + (f" ({row.steps:,})" if row.steps else "")
            epochs = f"{first['epochs']:.1f}"
            if row.steps:
                epochs += f" ({first['epochs'] / first['steps'] * row.steps:,.0f})"
            lines.append(
                f"{paper} | {figure(runs, f'test_{metric}')} | {difference(row, runs)} "
                f"| {validation} | {row.parameters} | {row.counted:,} "
                f"| {first['parameters']:,} ({what_ran(first)}) | {steps} "
                f"| {epochs} | {len(runs)} |"
            )
    return lines


def run_lines(record: dict[str, Any]) -> list[str]:
    """What a page says of one run."""
    metric = metric_of(record)
    commits = list(dict.fromkeys(short(session["commit"]) for session in record["sessions"]))
    lines = [
        f"- [{record['name']}](runs/{record['name']}.json): `{record['command']}`, seed {record['seed']}.",
        "  "
        + ", ".join(f"{key.replace('_', ' ')} {value:.{METRICS[metric]}f}" for key, value in figures_of(record).items())
        + ".",
        f"  {record['steps']:,} steps ({record['curve'][-1]['examples']:,} {EXAMPLES[metric]}) in "
        f"{record['seconds']:,.0f} s, {record['precision']}, {record['hardware']}, "
        f"torch {record['versions']['torch']}, commit {', '.join(commits)}.",
    ]
    return lines + ([f"  {record['note']}"] if "note" in record else [])


def what_was_tried(record: dict[str, Any]) -> tuple[str, int, int, float]:
    """The order of trials on a page: those that differ in the rate alone stand together."""
    settings = record["settings"]
    return what_ran(record), settings["dataset"]["batch_size"], record["steps"], peak_rate(record)


def peak_rate(record: dict[str, Any]) -> float:
    """The highest learning rate of a run."""
    schedule = record["settings"]["schedule"]
    return schedule.get("peak") or schedule.get("rate") or max(schedule["rates"])


def tuning_lines(table: str, tried: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Short runs with several peak rates, and what they reached on validation."""
    rows = []
    for row in (row for row in ROWS if row.experiment.startswith(table)):
        for record in sorted(tried[row.experiment], key=what_was_tried):
            dataset, peak = record["settings"]["dataset"], peak_rate(record)
            metric = metric_of(record)
            value = f"{record[f'validation_{metric}']:.{METRICS[metric]}f}"
            rows.append(f"| {what_ran(record)}, {record['settings']['hypernet']['name']} | {dataset['batch_size']} ")
            rows[-1] += f"| {record['steps']:,} | {peak:g} | {value} | {short(record['commit'])} "
            rows[-1] += f"| [record](tuning/{record['name']}.json) |"
    if not rows:
        return []
    head = [
        "| network | batch | steps | peak rate | validation | commit | |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    return ["## Peak rates tried", "", *head, *rows, ""]


def batch_norm_lines(table: str, results: Path) -> list[str]:
    """Validations with the running statistics of batch norm and with recomputed ones."""
    path = results / "batch_norm_statistics.jsonl"
    checked = read_json_lines(path)
    rows = [
        f"| {one['network']}, {one['hypernet']} | {one['step']:,} of {one['steps']:,} "
        f"| {one['running']['error']:.2f} | {one['recomputed']['error']:.2f} ({one['batches']}) "
        f"| {one['precision']}, {one['hardware']}, commit {short(one['commit'])} | {one['run']} |"
        for one in checked
        if one["table"] == table
    ]
    if not rows:
        return []
    head = [
        "| network | step | running | recomputed (batches) | where | run |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    introduction = [
        "Validation error in percent with the running statistics, as in training, and with statistics recomputed",
        "over some training batches with the checkpoint's weights alone: `scripts/batch_norm_statistics.py`, of",
        "copies of the checkpoints that the runs wrote on their way.",
    ]
    return ["## Statistics of batch norm", "", *introduction, "", *head, *rows, ""]


def page(table: str, records: dict[str, list[dict[str, Any]]], results: Path) -> str:
    """The page of a table."""
    comment = results / "comments" / f"{table}.md"
    parts = [f"# {TITLES[table]}", "", *table_lines(table, records), ""]
    if comment.exists():
        parts += [comment.read_text().strip(), ""]
    rows = [row for row in ROWS if row.experiment.startswith(table)]
    runs = [line for row in rows for record in records[row.experiment] for line in run_lines(record)]
    if runs:
        parts += [f"![Validation in the course of training]({table}.png)", "", "## Runs", "", *runs, ""]
    parts += batch_norm_lines(table, results)
    parts += tuning_lines(table, read_records(results / "tuning"))
    return "\n".join(parts)


def curves(table: str, records: dict[str, list[dict[str, Any]]]) -> list[tuple[str, list[float], list[float]]]:
    """What the validation said in the course of the runs of a table: label, steps and values of each."""
    lines = []
    for row in (row for row in ROWS if row.experiment.startswith(table)):
        for runs in by_setting(records[row.experiment]):
            label = f"{row.experiment.partition('/')[2]} ({what_ran(runs[0])}, n = {len(runs)})"
            for record in runs:
                values = [point[f"validation/{metric_of(record)}"] for point in record["curve"]]
                lines.append((label, [point["step"] for point in record["curve"]], values))
    return lines


def digest(lines: list[tuple[str, list[float], list[float]]]) -> str:
    """Of the figures that a picture shows, kept in it, since its pixels depend on fonts."""
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def pictures(project: Path) -> dict[Path, list[tuple[str, list[float], list[float]]]]:
    """Path -> curves of every picture whose place has none, or one of other figures."""
    records = read_records(project / "results" / "runs")
    made = {project / "results" / f"{table}.png": curves(table, records) for table in TITLES}
    return {
        path: lines
        for path, lines in made.items()
        if lines and (not path.exists() or Image.open(path).info.get("Figures") != digest(lines))
    }


def summary_lines(records: dict[str, list[dict[str, Any]]], link: str) -> list[str]:
    """All rows of the paper, with what there is of ours."""
    lines = [
        "| experiment | paper, test | ours, test | ours, validation | our run |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in ROWS:
        table = row.experiment.partition("/")[0]
        name = f"| [`{row.experiment}`]({link}{table}.md) | {printed(row)}"
        if not records[row.experiment]:
            lines.append(f"{name} | not run | | |")
        for runs in by_setting(records[row.experiment]):
            metric, first = metric_of(runs[0]), runs[0]
            ours = f"{what_ran(first)}, {first['epochs']:.1f} epochs, n = {len(runs)}"
            lines.append(
                f"{name} | {figure(runs, f'test_{metric}')} | {figure(runs, f'validation_{metric}')} | {ours} |"
            )
    return lines


def pages(project: Path) -> dict[Path, str]:
    """Path -> content of everything that this script makes."""
    results = project / "results"
    records = read_records(results / "runs")
    made = {results / f"{table}.md": page(table, records, results) for table in TITLES}
    performance = read_json(results / "performance.json")
    precision_runs = [read_json(path) for path in sorted((results / "precision").glob("*.json"))]
    made[results / "performance.md"] = report.page(performance, precision_runs)
    for path, link in ((project / "README.md", "results/"), (results / "README.md", "")):
        before, begin, rest = path.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{path} has no place for the table: the lines {BEGIN} and {END}.")
        lines = [*summary_lines(records, link), "", report.summary(performance, link)]
        made[path] = "\n".join([before + BEGIN, "", *lines, "", END]) + after
    return made


def write(project: Path, check: bool = False) -> None:
    """Write what differs from the records, and say what that is.

    Raises:
        ValueError: something differs, and this should only be a check.
    """
    made, drawn = pages(project), pictures(project)
    differing = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if check and (differing or drawn):
        names = ", ".join(str(path.relative_to(project)) for path in [*differing, *drawn])
        raise ValueError(f"These pages do not match the records: {names}; run python scripts/make_tables.py.")
    for path in differing:
        path.write_text(made[path])
    for path, lines in drawn.items():
        draw(lines, "step", f"validation {TITLES[path.stem].rpartition(', ')[2]}", path, Figures=digest(lines))
    for path in [*differing, *drawn]:
        print(path.relative_to(project))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not what it should be")
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    arguments = parser.parse_args()
    with one_line_errors("make_tables.py"):
        write(arguments.project, arguments.check)


if __name__ == "__main__":
    main()
