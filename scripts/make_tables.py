"""Make the pages of results/ and the figures in the README from the records in results/, and from nothing else.

    python scripts/make_tables.py            # write them
    python scripts/make_tables.py --check    # only say which differ from the records; exit status 1 if any does

A row of the paper without a record says "not run". What the tables mean stands in results/comments/TABLE.md, which is
copied into the page. Records of runs come from scripts/record_result.py, performance.json from scripts/benchmark.py.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from scripts.benchmarks import report
from scripts.paper_tables import ROWS, Row
from training.command_line import one_line_errors

TITLES = {
    "table2": "Table 2: CIFAR-10, error in percent",
    "table3": "Table 3: character-level Penn Treebank, bits per character",
    "table4": "Table 4: enwik8, bits per character",
    "table7": "Table 7: MNIST, error in percent",
}
METRICS = {"error": 2, "bits_per_character": 3}  # digits after the point
BEGIN, END = "<!-- made by scripts/make_tables.py -->", "<!-- end of what it made -->"


def read_records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of each experiment, in the order of their names.

    Raises:
        ValueError: a record of no row of the paper.
    """
    records: dict[str, list[dict[str, Any]]] = {row.experiment: [] for row in ROWS}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        found = re.search(r"experiment=(\S+)", record["command"])
        if found is None or found[1] not in records:
            raise ValueError(f"{path} is no run of an experiment of configs/experiment/: {record['command']}.")
        records[found[1]].append(record)
    return records


def by_setting(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Put together the runs that differ in the seed alone."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        command = re.sub(r" (seed|split_seed)=\S+", "", record["command"])
        groups.setdefault(f"{command} {record['steps']}", []).append(record)
    return list(groups.values())


def metric_of(record: dict[str, Any]) -> str:
    """Which metric the record has."""
    return next(metric for metric in METRICS if f"test_{metric}" in record)


def figure(runs: list[dict[str, Any]], key: str) -> str:
    """The mean of a figure, with the standard deviation where there are several runs."""
    digits = METRICS[metric_of(runs[0])]
    values = [run[key] for run in runs]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def difference(row: Row, runs: list[dict[str, Any]]) -> str:
    """Ours minus the paper's, on the test set."""
    metric = metric_of(runs[0])
    return f"{statistics.mean(run[f'test_{metric}'] for run in runs) - row.test:+.{METRICS[metric]}f}"


def printed(row: Row) -> str:
    """The metric as printed in the paper."""
    return f"{row.test:.{2 if row.experiment.startswith(('table2', 'table7')) else 3}f}"


def table_lines(table: str, records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The rows of a table with the paper's figures and ours."""
    lines = [
        "| network | paper, test | ours, test | difference | ours, validation (paper's) | parameters, printed "
        "| counted | of our run | steps (paper's) | epochs | runs |",
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
            lines.append(
                f"{paper} | {figure(runs, f'test_{metric}')} | {difference(row, runs)} "
                f"| {validation} | {row.parameters} | {row.counted:,} "
                f"| {first['parameters']:,} ({first['settings']['main_net']['label']}) | {steps} "
                f"| {first['epochs']:.1f} | {len(runs)} |"
            )
    return lines


def run_lines(record: dict[str, Any]) -> list[str]:
    """What a page says of one run."""
    metric = metric_of(record)
    figures = [key for key in record if re.fullmatch(rf"(test|validation)_(\w+_)?{metric}", key)]
    commits = list(dict.fromkeys(session["commit"][:10] for session in record["sessions"]))
    lines = [
        f"- [{record['name']}](runs/{record['name']}.json): `{record['command']}`, seed {record['seed']}.",
        "  " + ", ".join(f"{key.replace('_', ' ')} {record[key]:.{METRICS[metric]}f}" for key in figures) + ".",
        f"  {record['steps']:,} steps in {record['seconds']:,.0f} s, {record['precision']}, {record['hardware']}, "
        f"torch {record['versions']['torch']}, commit {', '.join(commits)}.",
    ]
    return lines + ([f"  {record['note']}"] if "note" in record else [])


def page(table: str, records: dict[str, list[dict[str, Any]]], comments: Path) -> str:
    """The page of a table."""
    comment = comments / f"{table}.md"
    parts = [f"# {TITLES[table]}", "", *table_lines(table, records), ""]
    if comment.exists():
        parts += [comment.read_text().strip(), ""]
    runs = [record for row in ROWS if row.experiment.startswith(table) for record in records[row.experiment]]
    if runs:
        parts += ["## Runs", "", *(line for record in runs for line in run_lines(record)), ""]
    return "\n".join(parts)


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
            ours = f"{first['settings']['main_net']['label']}, {first['epochs']:.0f} epochs, n = {len(runs)}"
            lines.append(
                f"{name} | {figure(runs, f'test_{metric}')} | {figure(runs, f'validation_{metric}')} | {ours} |"
            )
    return lines


def pages(project: Path) -> dict[Path, str]:
    """Path -> content of everything that this script makes."""
    results = project / "results"
    records = read_records(results / "runs")
    made = {results / f"{table}.md": page(table, records, results / "comments") for table in TITLES}
    performance = json.loads((results / "performance.json").read_text())
    precision_runs = [json.loads(path.read_text()) for path in sorted((results / "precision").glob("*.json"))]
    made[results / "performance.md"] = report.page(performance, precision_runs)
    for path, link in ((project / "README.md", "results/"), (results / "README.md", "")):
        before, begin, rest = path.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{path} has no place for the table: the lines {BEGIN} and {END}.")
        lines = [*summary_lines(records, link), "", report.summary(performance, link)]
        made[path] = "\n".join([before + BEGIN, "", *lines, "", END]) + after
    return made


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not what it should be")
    parser.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    arguments = parser.parse_args()
    with one_line_errors("make_tables.py"):
        made = pages(arguments.project)
        differing = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
        if arguments.check and differing:
            names = ", ".join(str(path.relative_to(arguments.project)) for path in differing)
            raise ValueError(f"These pages do not match the records: {names}; run python scripts/make_tables.py.")
    for path in differing:
        path.write_text(made[path])
        print(path.relative_to(arguments.project))


if __name__ == "__main__":
    main()
