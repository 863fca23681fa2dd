"""Figures as Markdown tables, and the page results/performance.md from the record results/performance.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.provenance import short

INTRODUCTION = """# What hypernetworks cost

Measured by `python -m benchmarks`, or by earlier versions of it, as the commits say; the figures are in
[performance.json](performance.json). The networks that are compared take turns in one process. Each turn gives the
ratio of its two times, and the tables show the median of these ratios. Seconds depend on the machine, ratios less so.
Recurrent layers have 50 inputs, 1000 units if not said otherwise, a hyper cell of 128, N_z = 4 and sequences of 100;
Wide ResNets have batches of 128.
"""
PARTS = {
    "recurrent": "Recurrent layers",
    "first_step": "The first step of a recurrent layer",
    "images": "Wide ResNets",
    "counts": "Operations and memory, counted",
}
CAPTIONS = {
    "first_step": "Seconds:",
    "wide_resnets": "Plain and hyper, side by side:",
    "operations_per_image": "Floating-point operations per image of a training step, forward and backward:",
    "hyperrnn_forms": "A HyperRNN of 1000 units that generates its weights (Eq. 5-6), and one that scales the rows of "
    "learned weights (Eq. 7-8): megabytes of parameters, and of what 32 sequences keep for the backward pass:",
    "settings": "Training steps of Hyper WRN-40-1 with one setting changed from bf16, not compiled:",
}
RECURRENT = """Training steps: seconds of torch.nn.LSTM, and how many times as long the other layers take. Each case and
each setting has a process of its own.

- bf16: under autocast to bfloat16, in which train.py trains where the processor has instructions for it. Only the
  products are faster than in float32, so narrow layers have higher ratios.
- Memory kept: with [training/memory.py](../training/memory.py), as in train.py. torch.nn.LSTM gains most from it, since
  it allocates memory for whole sequences. The other columns are without it, as in a program of your own.
- Only AVX2: limited to the instructions of processors without AVX-512. Products then take longer, so the rest counts
  for less.

The second processor is older (Zen 3) and has no AVX-512. There, everything except the products takes twice as
long, too, and the figures vary more from run to run.
"""
FIRST_STEP = """Seconds until the end of the first training step in a new process, those of `compile()` included, with
1000 units and a batch of 32. With an empty cache, most of the time goes into PyTorch's compiler, which is written
in Python and uses one core. Its C++ is compiled on the other: first PyTorch's headers, then the derivative of the time
step, while Python prepares the step itself. In the next process, the code of both is loaded without PyTorch's compiler.

The figures of commits 7df319f392 and e8b32b36ae are older. At that time, the step was compiled before its derivative,
and Python waited for both. At the first of them, the next process imported PyTorch's compiler and traced the step
again.
"""
TEXTS = {"recurrent": RECURRENT, "first_step": FIRST_STEP}  # before the figures of a part
# An LSTM multiplies with 4 H (I + H) weights per step, a HyperLSTM with 4 H^ (I + H + H^) + 12 N_z (H^ + H) more.
BOUND = """In each case with one layer, the last row is the time of all products of a HyperLSTM by themselves, as we
compute them. The hyper cell has 128 units at every width, so the narrower the main network is, the larger its share: a
HyperLSTM multiplies with 1.16 times as many weights as an LSTM of 1000 units, 1.34 times as many as one of 500 and 1.77
times as many as one of 256. Besides, the products of the hyper cell's own state, of the embeddings and of the row
scales are small, and small products are slower for their size than large ones.

What is left, 0.1 to 0.5 of the time of an LSTM at 1000 units, is elementwise work and the calls of a time step. We
tried four changes to the compiled step, and none made it faster: blocks of half or twice as many time steps, blocks of
equal length, a derivative written by hand, and fewer loops that are split between threads. Uncompiled, each operation
is a separate call, so the smaller the tensors are, the larger the share of overhead. The ratios differ a little from
run to run.
"""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a table, its first `left` columns aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def table(figures: Mapping[str, Any], corner: str = "") -> list[str]:
    """Nested figures as a Markdown table: the innermost keys are its columns, the others name its rows."""
    rows = _rows(figures)
    head = list(dict.fromkeys(name for columns in rows.values() for name in columns))
    cells = [[row, *(_printed(columns[name]) for name in head)] for row, columns in rows.items()]
    return [*markdown_table([corner, *head], cells), ""]


def _rows(figures: Mapping[str, Any], names: tuple[str, ...] = ()) -> dict[str, Mapping[str, float]]:
    if not any(isinstance(value, Mapping) for value in figures.values()):
        return {", ".join(names): figures}
    rows = {}
    for name, inner in figures.items():
        rows |= _rows(inner, (*names, name))
    return rows


def against_built_in(cases: Mapping[str, Any]) -> list[str]:
    """The recurrent layers as a Markdown table: a column for each setting, seconds for the first layer of each case."""
    settings = list(next(iter(cases.values())))
    rows = []
    for case, measured in cases.items():
        base, *others = measured[settings[0]]
        rows.append([case, base, *(f"{measured[setting][base]['seconds']:.3f} s" for setting in settings)])
        for layer in others:
            figures = [measured[setting].get(layer) for setting in settings]
            rows.append([case, layer, *(f"{figure['ratio']:.2f}" if figure else "" for figure in figures)])
    return [*markdown_table(["", "", *settings], rows, left=2), ""]


def _printed(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def page(record: Mapping[str, Any], in_both_precisions: Sequence[Mapping[str, Any]]) -> str:
    """The whole page, from performance.json and the records of two runs that differ only in precision."""
    lines = [INTRODUCTION]
    if not any("cuda" in measured["versions"] for part in PARTS for measured in record[part].values()):
        lines += ["Nothing here is measured on a GPU.", ""]
    for part, title in PARTS.items():
        lines += [f"## {title}", "", *([TEXTS[part]] if part in TEXTS else [])]
        for hardware, measured in record[part].items():
            versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
            turns = f"; {measured['rounds']} turns" if part in ("recurrent", "images") else ""
            lines += [f"{hardware}; {versions}; commit {short(measured['commit'])}{turns}.", ""]
            if part == "recurrent":
                lines += against_built_in(measured["against_built_in"])
            for key, caption in CAPTIONS.items():
                if key in measured:
                    lines += [caption, "", *table(measured[key])]
        lines += [BOUND] if part == "recurrent" else []
    curves: dict[str, dict[str, float]] = {}
    for run in in_both_precisions:
        for point in run["curve"]:
            row = curves.setdefault(f"{point['step']}", {})
            row[f"training loss in nats, {run['precision']}"] = point["train/loss"]
            row[f"bits per character on validation, {run['precision']}"] = point["validation/bits_per_character"]
    lines += ["## Training in bf16 and in float32", ""]
    lines += ["A Layer Norm HyperLSTM of 256 units, twice; the records are in [precision/](precision).", ""]
    return "\n".join(lines + table(curves, "step"))
