"""`train.py -r [RUN]`: from the command line to the run that goes on.

Hydra 1.3 has a flag -r of its own (--run) and would ignore ours without a word, so the command line is rewritten
before Hydra reads it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from training.run_directory import OVERRIDES, RESUMED_WITH, most_recent_run, read_json

# What must stay as it was when a run is resumed. The data may move; `require_same_data` sees to their content.
FIXED = (
    *("main_net", "hypernet", "dataset", "seed", "split_seed"),
    *("optimizer.name", "optimizer.momentum", "optimizer.betas"),  # the checkpoint of the optimizer has them
)
FREE = ("dataset.root", "dataset.path")


def rewrite_resume(arguments: list[str]) -> list[str]:
    """Turn `-r [RUN]` or `--resume [RUN]` into RUN's overrides, those given now, and `resume=RUN`.

    RUN's overrides are those of its first launch, then those given when it was resumed before. Without RUN the run
    that was started or resumed last is meant. An override given later replaces an earlier one of the same key.
    Arguments without -r are returned as they are.

    Args:
        arguments: the command line without the program's name.

    Raises:
        ValueError: no run to resume, or -r together with a sweep.
    """
    arguments = [
        part for each in arguments for part in (each.split("=", 1) if each.startswith("--resume=") else [each])
    ]
    flags = [index for index, argument in enumerate(arguments) if argument in ("-r", "--resume")]
    if not flags:
        return arguments
    if len(flags) > 1:
        raise ValueError("-r was given more than once; resume one run at a time.")
    if any(argument in ("-m", "--multirun") for argument in arguments):
        raise ValueError("-r resumes one run and cannot be combined with the sweep -m.")
    before, after = arguments[: flags[0]], arguments[flags[0] + 1 :]
    if after and not after[0].startswith(("-", "+", "~")) and "=" not in after[0]:
        run, after = Path(after[0]), after[1:]
    else:
        run = most_recent_run(place_of_runs(arguments))
    if not (run / OVERRIDES).exists():
        raise ValueError(f"There is no run to resume in {run}: it has no {OVERRIDES}.")
    saved = read_json(run / OVERRIDES) + read_json(run / RESUMED_WITH, default=[])
    given = [*before, *after]
    overrides = [each for each in given if not each.startswith("-") and ("=" in each or each[:1] in ("+", "~"))]
    flags = [each for each in given if each not in overrides]  # such as --cfg job; argparse wants them in one place
    merged = {key_of_override(override): override for override in [*saved, *overrides]}
    return [*merged.values(), f"resume={_quoted(str(run))}", *flags]


def place_of_runs(arguments: Sequence[str]) -> Path:
    """The folder that a command line has its run directories made in, relative to the checkout."""
    places = [argument for argument in arguments if argument.startswith("runs=")]
    return Path(str(OverridesParser.create().parse_override(places[-1]).value()) if places else "runs")


def refuse_changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the configuration of the first launch with that of a resume, both as nested plain values.

    Raises:
        ValueError: naming every key of the architecture, the data set, the seeds or the optimizer that differs.
    """
    before, after = flat(earlier), flat(now)
    changed = [
        f"{key} (was {before.get(key)!r}, now {after.get(key)!r})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and key not in FREE
        and any(key == fixed or key.startswith(fixed + ".") for fixed in FIXED)
    ]
    if changed:
        raise ValueError(f"A resumed run cannot change {', '.join(changed)}; start a new run for that.")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with their keys put together: {"a": {"b": 1}} as {"a.b": 1}."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def key_of_override(override: str) -> str:
    """The key or the group that an override of Hydra's sets."""
    return override.split("=", 1)[0].lstrip("+~")


def _quoted(text: str) -> str:
    """A string in the grammar of Hydra's overrides."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
