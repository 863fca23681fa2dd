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
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from PIL import Image

from scripts.benchmarks import report
from scripts.paper_tables import ROWS, Row
from scripts.plot_curves import Curve, draw
from scripts.records import METRICS, Record, Records, by_setting, figures_of, metric_of, peak_rate, read_records
from training.command_line import one_line_errors
from training.provenance import short
from training.run_directory import read_json, read_json_lines

TITLES = {
    "table2": "Table 2: CIFAR-10, error in percent",
    "table3": "Table 3: character-level Penn Treebank, bits per character",
    "table4": "Table 4: enwik8, bits per character",
    "table7": "Table 7: MNIST, error in percent",
}
DATASETS = {"table2": "cifar10", "table3": "ptb_char", "table4": "enwik8", "table7": "mnist"}  # of the paper
EXAMPLES = {"error": "images", "bits_per_character": "characters"}
BEGIN, END = "<!-- made by scripts/make_tables.py -->", "<!-- end of what it made -->"


def figure(runs: list[Record], key: str) -> str:
    """The mean of a figure, with the standard deviation where there are several runs."""
    digits = METRICS[metric_of(runs[0])]
    values = [run[key] for run in runs]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def difference(row: Row, runs: list[Record]) -> str:
    """Ours minus the paper's, on the test set; nothing if ours read other data (data/README.md)."""
    metric = metric_of(runs[0])
    if runs[0]["settings"]["dataset"]["name"] != DATASETS[row.experiment.partition("/")[0]]:
        return "other data"
    if f"test_lossless_{metric}" in runs[0]:
        return "altered test images"
    return f"{statistics.mean(run[f'test_{metric}'] for run in runs) - row.test:+.{METRICS[metric]}f}"


def what_ran(record: Record) -> str:
    """The main network, with its size, and the data set of a run."""
    return f"{record['settings']['main_net']['label']} on {record['settings']['dataset']['name']}"


def printed(row: Row, value: float) -> str:
    """A metric with as many digits as the paper prints."""
    return f"{value:.{2 if row.experiment.startswith(('table2', 'table7')) else 3}f}"


def table_lines(table: str, records: Records) -> list[str]:
    """The rows of a table with the paper's figures and ours."""
    lines = [
        "| network | paper, test | ours, test | difference | ours, validation (paper's) | parameters, printed "
        "| counted | of our run | steps (paper's) | epochs (paper's) | peak rate | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in (row for row in ROWS if row.experiment.startswith(table)):
        paper = f"| {row.network} | {printed(row, row.test)}"
        if not records[row.experiment]:
            lines.append(f"{paper} | not run | | | {row.parameters} | {row.counted:,} | | | | | |")
        for runs in by_setting(records[row.experiment]):
            metric, first = metric_of(runs[0]), runs[0]
            validation = figure(runs, f"validation_{metric}")
            if row.validation:
                validation += f" ({printed(row, row.validation)})"
            steps = f"{first['steps']:,}" + (f" ({row.steps:,})" if row.steps else "")
            epochs = f"{first['epochs']:.1f}"
            if row.steps:
                epochs += f" ({first['epochs'] / first['steps'] * row.steps:,.0f})"
            lines.append(
                f"{paper} | {figure(runs, f'test_{metric}')} | {difference(row, runs)} "
                f"| {validation} | {row.parameters} | {row.counted:,} "
                f"| {first['parameters']:,} ({what_ran(first)}) | {steps} "
                f"| {epochs} | {peak_rate(first):g} | {len(runs)} |"
            )
    return lines


def run_lines(record: Record) -> list[str]:
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


def what_was_tried(record: Record) -> tuple[str, int, int, float]:
    """The order of trials on a page: those that differ in the rate alone stand together."""
    settings = record["settings"]
    return what_ran(record), settings["dataset"]["batch_size"], record["steps"], peak_rate(record)


def tuning_lines(table: str, tried: Records) -> list[str]:
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


def page(table: str, records: Records, tried: Records, results: Path) -> str:
    """The page of a table: its rows, what they mean, the runs, and what was tried."""
    comment = results / "comments" / f"{table}.md"
    parts = [f"# {TITLES[table]}", "", *table_lines(table, records), ""]
    if comment.exists():
        parts += [comment.read_text().strip(), ""]
    rows = [row for row in ROWS if row.experiment.startswith(table)]
    runs = [line for row in rows for record in records[row.experiment] for line in run_lines(record)]
    if runs:
        parts += [f"![Validation in the course of training]({table}.png)", "", "## Runs", "", *runs, ""]
    parts += batch_norm_lines(table, results)
    parts += tuning_lines(table, tried)
    return "\n".join(parts)


def curves(table: str, records: Records) -> list[Curve]:
    """What the validation said in the course of the runs of a table: label, steps and values of each."""
    lines = []
    for row in (row for row in ROWS if row.experiment.startswith(table)):
        for runs in by_setting(records[row.experiment]):
            label = f"{row.experiment.partition('/')[2]} ({what_ran(runs[0])}, {peak_rate(runs[0]):g}, n = {len(runs)})"
            for record in runs:
                values = [point[f"validation/{metric_of(record)}"] for point in record["curve"]]
                lines.append((label, [point["step"] for point in record["curve"]], values))
    return lines


def digest(lines: list[Curve]) -> str:
    """Of the figures that a picture shows, kept in it, since its pixels depend on fonts."""
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def pictures(project: Path, records: Records) -> dict[Path, list[Curve]]:
    """Path -> curves of every picture whose place has none, or one of other figures; no curves, no picture."""
    made = {project / "results" / f"{table}.png": curves(table, records) for table in TITLES}
    shown = {path: Image.open(path).info.get("Figures") if path.exists() else None for path in made}
    return {path: lines for path, lines in made.items() if shown[path] != (digest(lines) if lines else None)}


def summary_lines(records: Records, link: str) -> list[str]:
    """All rows of the paper, with what there is of ours."""
    lines = [
        "| experiment | paper, test | ours, test | ours, validation | our run |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in ROWS:
        table = row.experiment.partition("/")[0]
        name = f"| [`{row.experiment}`]({link}{table}.md) | {printed(row, row.test)}"
        if not records[row.experiment]:
            lines.append(f"{name} | not run | | |")
        for runs in by_setting(records[row.experiment]):
            metric, first = metric_of(runs[0]), runs[0]
            ours = f"{what_ran(first)}, {first['epochs']:.1f} epochs, peak rate {peak_rate(first):g}, n = {len(runs)}"
            lines.append(
                f"{name} | {figure(runs, f'test_{metric}')} | {figure(runs, f'validation_{metric}')} | {ours} |"
            )
    return lines


def pages(project: Path, records: Records) -> dict[Path, str]:
    """Path -> content of every page that this script makes."""
    results = project / "results"
    tried = read_records(results / "tuning")
    made = {results / f"{table}.md": page(table, records, tried, results) for table in TITLES}
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
    records = read_records(project / "results" / "runs")
    made, drawn = pages(project, records), pictures(project, records)
    differing = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if check and (differing or drawn):
        names = ", ".join(str(path.relative_to(project)) for path in [*differing, *drawn])
        raise ValueError(f"These pages do not match the records: {names}; run python scripts/make_tables.py.")
    for path in differing:
        path.write_text(made[path])
    for path, lines in drawn.items():
        path.unlink(missing_ok=True)
        if lines:
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
