"""Make the pages of results/, and the table in README.md, from the records there.

    python -m scripts.make_pages              # write the pages that differ
    python -m scripts.make_pages --pictures   # and draw the learning curves of every table anew
    python -m scripts.make_pages --check      # write nothing; exit status 1 if a page differs from the records

Each table has a page: the paper's claims and what became of them, the figures, what they mean, the runs, and what was
tried. The claims and their meaning are written by hand, in results/comments/TABLE.md; all other figures come from the
records (scripts/record_result.py) and from results/performance.json (benchmarks/). Another page, findings.md, is on
optimizers; its trials are in results/optimizers/.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.report import markdown_table
from hypernets import UserError
from scripts.paper_tables import ROWS, TABLES, Row
from scripts.plot import Curve, draw_curves, plot_curves, save_figure
from scripts.record_result import Record, by_setting, metric_of, peak_rate, read_records, row_of
from scripts.taxonomy_rows import SECTIONS, Section
from scripts.train_command import PROJECT
from training.command_line import key_of_override, one_line_errors
from training.json_files import read_json
from training.provenance import short
from training.settings import CHANGE_NOTHING

AXES = ("epochs", "hours")
BEGIN, END = "<!-- made by scripts/make_pages.py -->", "<!-- end of what it made -->"
SUMMARY = (  # the rows in README.md
    *("table2/wrn_40_1", "table2/hyper_wrn_40_1", "table2/wrn_40_2", "table2/hyper_wrn_40_2"),
    *("table3/lstm_1000", "table3/layer_norm_lstm_1000", "table3/hyperlstm_1000", "table3/layer_norm_hyperlstm_1000"),
    *("table7/mnist_convnet", "table7/hyper_mnist_convnet"),
)


def rows_of(table: str, records: Sequence[Record]) -> list[tuple[Row, list[list[Record]]]]:
    """The rows of a table with our runs of each; those that differ only in the seed are together."""
    rows = [row for row in ROWS if row.table == table]
    return [(row, by_setting([record for record in records if row_of(record) == row.experiment])) for row in rows]


def figure(runs: Sequence[Record], split: str) -> str:
    """The mean of the metric on a split, with the standard deviation over several runs; nothing if it is unknown."""
    metric = metric_of(runs[0])
    values = [run[f"{split}_{metric.key}"] for run in runs if f"{split}_{metric.key}" in run]
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.{metric.digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{metric.digits}f}{deviation}"


def bleu(runs: Sequence[Record]) -> str:
    """BLEU of translations of the test split, the mean over runs, by beam search and greedily."""
    if "test_bleu_beam_4" not in runs[0]:
        return ""
    beam, greedy = (statistics.mean(run[f"test_bleu_{how}"] for run in runs) for how in ("beam_4", "greedy"))
    return f", BLEU {beam:.2f} (greedily {greedy:.2f})"


def what_ran(record: Record) -> str:
    """The main network of a run, its hypernetwork if it has one, and its data where that is not the paper's."""
    main_net, hypernet, dataset = (record["settings"][group]["name"] for group in ("main_net", "hypernet", "dataset"))
    networks = main_net if hypernet == "none" else f"{main_net}, {hypernet}"
    return networks if dataset == TABLES[record["table"]].dataset else f"{networks} on {dataset}"


def our_run(row: Row, runs: Sequence[Record]) -> str:
    """How a row was run: the networks, for how long, with which peak rate, and how often."""
    first = runs[0]
    epochs = f"{first['epochs']:.1f}".removesuffix(".0")
    if row.steps:
        epochs += f" of {first['epochs'] / first['steps'] * row.steps:,.0f}"
    # What no row of the paper has.
    muon = "Muon, " if first["settings"]["optimizer"]["kind"] == "muon" else ""
    restarts = "restarts, " if first["settings"]["dataset"].get("restart_probability") else ""
    return f"{what_ran(first)}, {epochs} epochs, {muon}{restarts}peak rate {peak_rate(first):g}, n = {len(runs)}"


def figure_lines(table: str, records: Sequence[Record]) -> list[str]:
    """The rows of a table with the paper's figures and ours."""
    cells = []
    for row, groups in rows_of(table, records):
        paper = row.printed(row.test) + (f", BLEU {row.bleu:.2f}" if row.bleu else "")
        for runs in groups:
            validation = figure(runs, "validation") + (f" ({row.printed(row.validation)})" if row.validation else "")
            parameters = f"{runs[0]['parameters']:,} ({row.counted:,})"
            cells.append(
                [row.network, our_run(row, runs), paper, figure(runs, "test") + bleu(runs), validation, parameters]
            )
        if not groups:
            cells.append([row.network, "not run", paper, "", "", f"({row.counted:,})"])
    validation, parameters = "ours, validation (paper's)", "parameters (of the paper's network)"
    head = ["network", "our run", f"paper, {TABLES[table].split}", "ours, test", validation, parameters]
    return markdown_table(head, cells, left=2)


def run_lines(records: Sequence[Record]) -> list[str]:
    """What a page says about its runs, by machine and note; the commands of old records no longer work."""
    together: dict[str, list[str]] = {}
    for record in records:
        where = f"On {record['hardware']}, {record['precision']}. {record.get('note', '')}".rstrip()
        commits = dict.fromkeys(short(session["commit"]) for session in record["sessions"])
        command = f"`{record['command']}`, " if "experiment" in record else ""
        together.setdefault(where, []).append(
            f"- [{record['name']}](runs/{record['name']}.json): {command}{record['steps']:,} steps in "
            f"{record['seconds']:,.0f} s, commit {', '.join(commits)}"
        )
    lines = [line for where, runs in together.items() for line in (where, "", *runs, "")]
    return ["## Runs", "", *lines] if lines else []


def tuning_lines(table: str, tried: Sequence[Record]) -> list[str]:
    """Runs with several peak rates, and what they reached on validation."""

    def order(record: Record) -> tuple:
        batch_size = record["settings"]["dataset"]["batch_size"]
        return what_ran(record), batch_size, record["steps"], peak_rate(record)

    rows = []
    for record in sorted((record for record in tried if record["table"] == table), key=order):
        networks, batch_size, steps, peak = order(record)
        network = f"[{networks}](tuning/{record['name']}.json)"
        rows.append([network, f"{batch_size}", f"{steps:,}", f"{peak:g}", figure([record], "validation")])
    head = ["network", "batch", "steps", "peak rate", "validation"]
    return ["## Peak rates tried", "", *markdown_table(head, rows), ""] if rows else []


def page(table: str, records: Sequence[Record], tried: Sequence[Record], results: Path) -> str:
    """The page of a table."""
    claims, _, meaning = (results / "comments" / f"{table}.md").read_text().strip().partition("\n\n")
    figures = figure_lines(table, records)
    lines = [f"# {TABLES[table].title}", "", claims, "", "## Figures", "", *figures, "", meaning, ""]
    if (results / f"{table}.png").exists():
        lines += [f"![Validation during training]({table}.png)", ""]
    runs = [record for _, groups in rows_of(table, records) for runs in groups for record in runs]
    return "\n".join(lines + run_lines(runs) + tuning_lines(table, tried))


def taxonomy_table(section: Section, records: Sequence[Record]) -> list[str]:
    """A table of results/taxonomy.md: the runs of each experiment, as mean and standard deviation over the seeds."""

    def cell(runs: Sequence[Record], key: str, digits: int) -> str:
        values = [run["test"][key] for run in runs if key in run["test"]]
        deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{deviation}" if values else ""

    cells = []
    for experiment, what in section.rows.items():
        for runs in by_setting([record for record in records if row_of(record) == f"taxonomy/{experiment}"]) or [[]]:
            counts = [f"{runs[0][key]:,}" for key in ("parameters", "generated")] if runs else ["", ""]
            seconds = f"{statistics.mean(run['seconds'] for run in runs):,.0f}" if runs else ""
            figures = [cell(runs, column.key, column.digits) for column in section.columns]
            cells.append([what, f"`{experiment}`", f"{len(runs) or 'not run'}", *counts, seconds, *figures])
    head = ["", "experiment", "runs", "trained", "generated", "seconds", *(column.title for column in section.columns)]
    return markdown_table(head, cells, left=2)


def taxonomy_page(records: Sequence[Record], results: Path) -> str:
    """results/taxonomy.md: every kind of hypernetwork beside its controls."""
    claims, _, meaning = (results / "comments" / "taxonomy.md").read_text().strip().partition("\n\n")
    lines = ["# Hypernetworks of every kind", "", claims, ""]
    for section in SECTIONS:
        lines += [f"## {section.title}", "", *taxonomy_table(section, records), ""]
        if section.picture and (results / section.picture).exists():
            lines += [f"![{section.title}]({section.picture})", ""]
    runs = [record for record in records if record["table"] == "taxonomy"]
    return "\n".join([*lines, meaning, "", *run_lines(runs)])


def trial_lines(trials: Sequence[Record]) -> list[str]:
    """Short runs with several optimizers, with and without the symmetry, and what they reached on validation."""
    in_columns = ("experiment", "optimizer", "schedule", "schedule.peak", "steps", "main_net.depth")
    left_out = (*in_columns, *CHANGE_NOTHING, "validate_every", "dataset.test_streams")

    def cells(record: Record) -> list[str]:
        settings, overrides = record["settings"], record["command"].split()[2:]
        others = [each for each in overrides if key_of_override(each) not in left_out]
        others += ["hypernet.equal_start=false"] * (settings["hypernet"].get("equal_start") is False)
        network = f"[{settings['main_net']['name']}, {settings['hypernet']['name']}](optimizers/{record['name']}.json)"
        optimizer = f"{settings['optimizer']['kind']} at {peak_rate(record):g}"
        losses = [row["train/loss"] for row in record["curve"] if "train/loss" in row]
        return [
            network,
            optimizer,
            " ".join(f"`{each}`" for each in others),
            f"{record['steps']:,}",
            f"{losses[-1]:.3f}",
        ]

    def order(record: Record) -> tuple:
        steps, validation = record["steps"], record[f"validation_{metric_of(record).key}"]
        return record["settings"]["main_net"]["name"], steps, record["settings"]["hypernet"]["name"], validation

    rows = [[*cells(record), figure([record], "validation")] for record in sorted(trials, key=order)]
    return markdown_table(["network", "optimizer", "also", "steps", "training loss", "validation"], rows, left=3)


def findings(trials: Sequence[Record], results: Path) -> str:
    """The page on optimizers."""
    text = (results / "comments" / "findings.md").read_text().strip()
    pictures = [f"![Validation by {axis}](findings_{axis}.png)" for axis in AXES]
    shown = [each for axis, each in zip(AXES, pictures, strict=True) if (results / f"findings_{axis}.png").exists()]
    return "\n".join([text, "", *shown, *[""] * bool(shown), "## Trials", "", *trial_lines(trials), ""])


def by_optimizer(records: Sequence[Record], axis: str) -> list[Curve]:
    """What the validation said in the course of long runs of WRN-40-1 and Hyper WRN-40-1, over epochs or hours."""
    lines = []
    for record in records:
        if record["settings"]["main_net"]["name"] == "wrn_40_1" and record["epochs"] >= 10:
            label = f"{record['row']}, {record['settings']['optimizer']['kind']}, {record['epochs']:.0f} epochs"
            whole = record["epochs"] if axis == "epochs" else record["seconds"] / 3600
            places = [whole * point["step"] / record["steps"] for point in record["curve"]]
            lines.append((label, places, [point["validation/error"] for point in record["curve"]]))
    return lines


def parameter_figure(section: Section, records: Sequence[Record]) -> Figure:
    """The error of the rows of a section against their trained parameters, from the best to the worst seed."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="tight")
    for experiment, what in section.rows.items():
        runs = [record for record in records if row_of(record) == f"taxonomy/{experiment}"]
        if not runs:
            continue
        errors = sorted(record["test"]["error"] for record in runs)
        parameters, error = runs[0]["parameters"], statistics.mean(errors)
        reach = [[error - errors[0]], [errors[-1] - error]]
        is_plain = "plain" in experiment
        marker, colour, up = ("s", "tab:orange", -6) if is_plain else ("o", "tab:blue", 6)
        axes.errorbar(parameters, error, reach, marker=marker, color=colour, capsize=3)
        place = {"xytext": (-8, up), "ha": "right"} if parameters > 1e6 else {"xytext": (8, up), "ha": "left"}
        axes.annotate(what, (parameters, error), textcoords="offset points", va="center", fontsize=8, **place)
    axes.set(xscale="log", xlabel="trained parameters", ylabel="test error in percent")
    axes.grid(alpha=0.3)
    return figure


def training_figure(section: Section, records: Sequence[Record]) -> Figure:
    """What the samples of noise predict, in the course of training: the columns of a section, each in a panel."""
    curves = [
        (what, record["curve"])
        for experiment, what in section.rows.items()
        for record in records
        if row_of(record) == f"taxonomy/{experiment}"
    ]
    panels = [column for column in section.columns if all(f"validation/{column.key}" in c[0] for _, c in curves)]
    figure, axes = plt.subplots(-(-len(panels) // 2), 2, figsize=(12, 8), layout="tight")
    for place, column in zip(axes.flat, panels, strict=False):
        key = f"validation/{column.key}"
        lines = [(what, [point["step"] for point in c], [point[key] for point in c]) for what, c in curves]
        plot_curves(place, lines, "step", f"validation: {column.title}")
    return figure


DRAWN = {"taxonomy_parameters.png": parameter_figure, "taxonomy_spread.png": training_figure}


def summary_lines(records: Sequence[Record], link: str) -> list[str]:
    """Ten rows of the paper, each with our runs that come closest to its data, its size and its length."""

    def closeness(runs: Sequence[Record]) -> tuple:
        first, about = runs[0], TABLES[runs[0]["table"]]
        is_its_data = first["settings"]["dataset"]["name"].startswith(about.dataset)
        is_tested = f"test_{metric_of(first).key}" in first
        return is_its_data, is_tested, first["parameters"], first["steps"], len(runs)

    cells = []
    for row, groups in (each for table in TABLES for each in rows_of(table, records)):
        if row.experiment in SUMMARY:
            runs = max(groups, key=closeness, default=None)
            ours = [figure(runs, split) if runs else "" for split in ("test", "validation")]
            how = our_run(row, runs) if runs else "not run"
            cells.append([f"[{row.table[5:]}]({link}{row.table}.md)", row.network, how, row.printed(row.test), *ours])
    head = ["table", "network", "our run", "paper, test", "ours, test", "ours, validation"]
    return markdown_table(head, cells, left=3)


def curves(table: str, records: Sequence[Record]) -> list[Curve]:
    """What the validation said in the course of the runs of a table: label, steps and values of each."""
    lines = []
    for row, groups in rows_of(table, records):
        for runs in groups:
            label = f"{row.experiment.partition('/')[2]} ({what_ran(runs[0])}, {peak_rate(runs[0]):g}, n = {len(runs)})"
            for record in runs:
                values = [point[f"validation/{metric_of(record).key}"] for point in record["curve"]]
                lines.append((label, [point["step"] for point in record["curve"]], values))
    return lines


def pages(project: Path) -> dict[Path, str]:
    """Path -> content of every page that this script makes."""
    results = project / "results"
    records, tried = read_records(results / "runs"), read_records(results / "tuning")
    made = {results / f"{table}.md": page(table, records, tried, results) for table in TABLES}
    made[results / "taxonomy.md"] = taxonomy_page(records, results)
    made[results / "findings.md"] = findings(read_records(results / "optimizers"), results)
    performance = read_json(results / "performance.json", dict)
    made[results / "performance.md"] = report.page(performance, read_records(results / "precision"))
    for path, link in ((project / "README.md", "results/"), (results / "README.md", "")):
        before, begin, rest = path.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            made[path] = "\n".join([before + BEGIN, "", *summary_lines(records, link), "", END]) + after
    return made


def write(project: Path, check: bool = False, pictures: bool = False) -> None:
    """Write the pages that differ, and the pictures if asked for; or only check the pages."""
    records = read_records(project / "results" / "runs")
    for table, about in TABLES.items() if pictures else ():
        if lines := curves(table, records):
            figure = draw_curves(lines, "step", f"validation {about.title.rpartition(', ')[2]}")
            save_figure(figure, project / "results" / f"{table}.png")
    for axis in AXES if pictures else ():
        optimized = [*records, *read_records(project / "results" / "optimizers")]
        figure = draw_curves(by_optimizer(optimized, axis), axis, "validation error in percent")
        save_figure(figure, project / "results" / f"findings_{axis}.png")

    for section in SECTIONS if pictures else ():
        if section.picture in DRAWN:
            save_figure(DRAWN[section.picture](section, records), project / "results" / section.picture)
    made = pages(project)
    differing = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    names = ", ".join(str(path.relative_to(project)) for path in differing)
    if check and differing:
        raise UserError(f"These pages do not say what the records say: {names}; run python -m scripts.make_pages.")
    for path in differing:
        path.write_text(made[path])
        print(path.relative_to(project))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--check", action="store_true", help="write nothing; fail if a page is not what it should be")
    either.add_argument("--pictures", action="store_true", help="draw the learning curves, too")
    arguments = parser.parse_args()
    with one_line_errors("make_pages"):
        write(PROJECT, arguments.check, arguments.pictures)


if __name__ == "__main__":
    main()
