"""The page results/performance.md, from the record results/performance.json."""

from typing import Any

from scripts.benchmarks.recurrent import BUILT_IN, HYPER, START
from scripts.benchmarks.timing import few, many
from training.provenance import short

INTRODUCTION = """# What hypernetworks cost

By `python scripts/benchmark.py`; the figures are in [performance.json](performance.json). Contenders take turns in one
process (whole commands and peak memory: in processes of their own); a ratio is the median over the turns of the times
within one turn. Absolute times belong to the machine named.
"""


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table, its first column to the left."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def about(measured: dict[str, Any]) -> str:
    """Where a part was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return f"{measured['hardware']}; {versions}; commit {short(measured['commit'])}; `{measured['command']}`."


def turns(count: int) -> str:
    """How often each contender had its turn."""
    return f"{count} turn{'s' * (count > 1)}"


def recurrent_lines(measured: dict[str, Any]) -> list[str]:
    """The recurrent layers."""
    batches = measured["against_built_in"]
    lines = ["## Recurrent layers", "", about(measured), ""]
    lines += [
        "A training step (forward and backward) at 50 inputs, 1000 units, hyper cell 128, N_z 4, sequences of 100,"
    ]
    lines += ["float32, `layer.compile()`; loop: the same layer without, one PyTorch operation after another."]
    rounds = measured["rounds"]
    lines += [f"{turns(rounds)} each; {turns(few(rounds))} of the loop, of bf16 and of other sizes.", ""]
    head = ["layer"]
    for batch in batches:
        head += [f"B = {batch}: seconds", f"times {BUILT_IN}", "loop / fast"]
    head += ["float32 / bf16, B = 128", "kept for backward, B = 32", "peak resident, B = 32", "sampling, characters/s"]
    rows = []
    for name in batches["128"]:
        cells = [name]
        for batch, layers in batches.items():
            loop = measured["against_loop"][batch].get(name)
            cells += [f"{layers[name]['seconds']:.2f}", f"{layers[name]['ratio']:.2f}", f"{loop:.1f}" if loop else ""]
        gain = measured["bfloat16_gain"].get(name)
        cells += [f"{gain:.2f}" if gain else "", f"{measured['kept_megabytes'][name]:.0f} MB"]
        cells += [f"{measured['peak_megabytes'][name]:.0f} MB"]
        cells += [f"{measured['sampling_characters_per_second'][name]:,.0f}"]
        rows.append(cells)
    loop = f"{HYPER}, loop"
    rows.append([loop, *[""] * (len(head) - 4), f"{measured['kept_megabytes'][loop]:.0f} MB", ""])
    rows[-1].append(f"{measured['sampling_characters_per_second'][loop]:,.0f}")
    lines += table(head, rows)
    lines += [
        f"Seconds of a training step as one size changes, from B = 32, T = 100, 1000 units, one layer ({HYPER}):",
        "",
    ]
    rows = []
    for what, values in measured["scaling"].items():
        for value, seconds in values.items():
            cells = [f"{seconds[name]:.2f}" for name in (BUILT_IN, HYPER, "ratio")]
            rows.append([f"{what} {value}", *cells])
    lines += table(["", BUILT_IN, HYPER, "ratio"], rows)
    same = [measured["scaling"][what][value]["ratio"] for what, value in START.items()]
    lines += [
        f"The start is measured anew in each of these series: its ratio is {min(same):.2f} to {max(same):.2f}, and no "
        "ratio of this table says more than that.",
        "",
    ]
    lines += [f"Where a training step of the {HYPER} spends its time (B = 128):", ""]
    shares = sorted(measured["where_the_time_goes"].items(), key=lambda item: -item[1])
    return lines + table(["", "share"], [[name, f"{100 * share:.0f} %"] for name, share in shares])


def image_lines(measured: dict[str, Any]) -> list[str]:
    """The convolutional networks."""
    lines = ["## Wide ResNets", "", about(measured), ""]
    lines += [
        f"Batch 128, {measured['precision']}, channels-last, SGD with momentum for hyper and plain.",
        f"{turns(many(measured['rounds']))} of hyper and plain each, {turns(measured['rounds'])} of the settings.",
        "",
    ]
    rows = []
    for name, each in measured["wide_resnets"].items():
        speeds = [f"{128 / each['training'][kind]['seconds']:.0f}" for kind in ("plain", "hyper")]
        rows.append([name, f"{each['training']['hyper']['ratio']:.2f}", f"{each['inference']['hyper']['ratio']:.2f}"])
        rows[-1] += speeds
    lines += table(["", "training step, hyper / plain", "inference", "images/s, plain", "images/s, hyper"], rows)
    lines += ["Hyper WRN-40-1 with one setting changed, times the step as by default:", ""]
    lines += table(["", "ratio"], [[name, f"{each['ratio']:.2f}"] for name, each in measured["settings"].items()])
    return lines + [f"The input pipeline alone makes {measured['pipeline_images_per_second']:,.0f} images/s.", ""]


def operation_lines(measured: dict[str, Any]) -> list[str]:
    """What the Wide ResNets compute."""
    lines = ["## Operations", "", about(measured), ""]
    lines += [
        "GFLOP an image of a training step, forward and backward, at batch 128, by `torch.utils.flop_counter`:",
        "",
    ]
    rows = [
        [name, *(f"{each[kind] / 1e9:.3f}" for kind in ("plain", "hyper"))]
        for name, each in measured["wide_resnets"].items()
    ]
    return lines + table(["", "plain", "hyper"], rows)


def command_lines(measured: dict[str, Any]) -> list[str]:
    """Whole commands."""
    one, two = (measured["seconds_of_a_step"][name] for name in ("one process", "two processes"))
    return [
        *("## Commands", "", about(measured), ""),
        f"From `python train.py` to the row of its first step: {measured['seconds_to_first_step']:.1f} s, caches warm.",
        "",
        f"A step of a Layer Norm HyperLSTM of 256 units: {one:.3f} s in one process of two threads, {two:.3f} s in two "
        f"processes of one thread at the same global batch (`torchrun`), {two / one:.2f} times.",
        "",
    ]


def precision_lines(runs: list[dict[str, Any]]) -> list[str]:
    """Learning curves of runs that differ in precision alone."""
    lines = ["## Training in bf16 and in float32", ""]
    for run in runs:
        batch, peak = run["settings"]["dataset"]["batch_size"], run["settings"]["schedule"]["peak"]
        what = f"`{run['command']}`, {batch} streams, peak rate {peak:g}"
        lines += [f"{run['precision']}: {what}, {run['hardware']}, commit {short(run['commit'])}.", ""]
    head = ["step"]
    head += [
        f"{run['precision']}, {what}" for what in ("training, nats", "validation, bits per character") for run in runs
    ]
    rows = []
    for points in zip(*(run["curve"] for run in runs), strict=True):
        values = [point[key] for key in ("train/loss", "validation/bits_per_character") for point in points]
        rows.append([str(points[0]["step"]), *(f"{value:.4f}" for value in values)])
    return lines + table(head, rows)


def page(record: dict[str, Any], precision_runs: list[dict[str, Any]]) -> str:
    """The whole page, from performance.json and the records of runs in several precisions."""
    lines = INTRODUCTION.splitlines() + [""]
    parts = {
        "recurrent": recurrent_lines,
        "images": image_lines,
        "operations": operation_lines,
        "commands": command_lines,
    }
    for part, lines_of in parts.items():
        if part in record:
            lines += lines_of(record[part])
    if precision_runs:
        lines += precision_lines(precision_runs)
    return "\n".join(lines)


def summary(record: dict[str, Any], link: str) -> str:
    """A paragraph on what it all comes to, with a link to the page."""
    parts = []
    if "recurrent" in record:
        layers, loops = (record["recurrent"][key]["128"] for key in ("against_built_in", "against_loop"))
        ratios = ", ".join(f"{layers[name]['ratio']:.2f} ({name})" for name in loops)
        faster = ", ".join(f"{loop:.1f}" for loop in loops.values())
        parts.append(
            f"On the fast path a training step with 1000 units, in float32, takes {ratios} times that of {BUILT_IN} at "
            f"batch 128, and is {faster} times as fast as the loop over time."
        )
    if "images" in record:
        networks = record["images"]["wide_resnets"]
        steps, passes = (
            ", ".join(f"{each[kind]['hyper']['ratio']:.2f} ({name})" for name, each in networks.items())
            for kind in ("training", "inference")
        )
        parts.append(
            f"A training step of a hyper Wide ResNet takes {steps} times the plain one's, inference {passes}. The "
            f"input pipeline alone makes {record['images']['pipeline_images_per_second']:,.0f} images/s."
        )
    hardware = " and ".join(
        dict.fromkeys(record[part]["hardware"] for part in ("recurrent", "images") if part in record)
    )
    introduction = f"[What a hypernetwork costs]({link}performance.md), measured side by side ({hardware})."
    return " ".join([introduction, *parts])
