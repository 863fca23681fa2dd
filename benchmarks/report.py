"""The page results/performance.md, from the record results/performance.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.provenance import short

INTRODUCTION = """# What hypernetworks cost

Measured by `python -m benchmarks`, or by earlier versions of it, as the commits say; the figures are in
[performance.json](performance.json). The networks that are compared take turns in one process, and a ratio is the
median over the turns of the two times within one turn. Seconds depend on the machine, ratios less so. Recurrent layers
have 50 inputs, 1000 units, a hyper cell of 128, N_z = 4 and sequences of 100 unless a table says otherwise; Wide
ResNets have batches of 128.
"""
PARTS = {
    "recurrent": "Recurrent layers",
    "images": "Wide ResNets",
    "operations": "Floating-point operations per image of a training step",
    "commands": "Commands",
}
CAPTIONS = {
    "against_built_in": "Training steps in float32 by batch size, and the ratio to torch.nn.LSTM:",
    "against_loop": "How many times longer a layer takes without `compile()`, one PyTorch operation after another:",
    "bfloat16_gain": "How many times longer float32 takes than bf16, at batch 128:",
    "kept_megabytes": "Megabytes kept for the backward pass, at batch 32:",
    "peak_megabytes": "Megabytes by which the memory of a process grows in training, at batch 32:",
    "sampling_characters_per_second": "Characters per second when a text is sampled:",
    "scaling": "Seconds per training step as one size changes, from batch 32, 100 steps, 1000 units and one layer. "
    "Each series measures that start again: its ratio varies by chance, and smaller differences mean nothing.",
    "where_the_time_goes": "Shares of a training step of the Layer Norm HyperLSTM, at batch 128:",
    "wide_resnets": "Plain and hyper, side by side:",
    "settings": "Training steps of Hyper WRN-40-1 with one setting changed, and the ratio to its step by default:",
    "pipeline_images_per_second": "Images per second that the input pipeline makes on its own:",
    "seconds_to_first_step": "Seconds from `python train.py` to the end of its first step:",
    "seconds_of_a_step": "Seconds per step of a Layer Norm HyperLSTM of 256 units, with two threads in all:",
}


def table(figures: Mapping[str, Any], corner: str = "") -> list[str]:
    """Nested figures as a Markdown table: the innermost keys are its columns, the others name its rows."""
    rows = {", ".join(names): columns for names, columns in _rows(figures)}
    head = list(dict.fromkeys(name for columns in rows.values() for name in columns))
    lines = [[corner, *head], ["---"] + ["---:"] * len(head)]
    lines += [
        [row, *(_printed(columns[name]) if name in columns else "" for name in head)] for row, columns in rows.items()
    ]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def _rows(figures: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, float]]]:
    rows = []
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            rows.append(((name,), {"": value}))
        elif any(isinstance(inner, Mapping) for inner in value.values()):
            rows += [((name, *names), columns) for names, columns in _rows(value)]
        else:
            rows.append(((name,), value))
    return rows


def _printed(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def page(record: Mapping[str, Any], in_both_precisions: Sequence[Mapping[str, Any]] = ()) -> str:
    """The whole page, from performance.json and the records of two runs that differ only in precision."""
    lines = [INTRODUCTION]
    for part, title in PARTS.items():
        measured = record.get(part, {})
        if measured:
            versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
            lines += [f"## {title}", "", f"{measured['hardware']}; {versions}; commit {short(measured['commit'])}.", ""]
        for key, figures in measured.items():
            if isinstance(figures, Mapping) and key != "versions":
                lines += [CAPTIONS.get(key, key), "", *table(figures)]
            elif key in CAPTIONS:
                lines += [f"{CAPTIONS[key]} {_printed(figures)}.", ""]
    curves: dict[str, dict[str, float]] = {}
    for run in in_both_precisions:
        for point in run["curve"]:
            row = curves.setdefault(f"{point['step']}", {})
            row[f"training loss in nats, {run['precision']}"] = point["train/loss"]
            row[f"bits per character on validation, {run['precision']}"] = point["validation/bits_per_character"]
    if curves:
        lines += ["## Training in bf16 and in float32", ""]
        lines += ["A Layer Norm HyperLSTM of 256 units, twice; the records are in [precision/](precision).", ""]
        lines += table(curves, "step")
    return "\n".join(lines)
