"""Checks the settings of a run as a whole; those of a group are checked where they are used."""

from collections.abc import Mapping
from typing import Any

from hypernets import UserError
from hypernets.errors import require_number, require_whole

GROUPS = ("dataset", "main_net", "hypernet", "optimizer", "schedule", "logger")
INTERVALS = ("steps", "validate_every", "checkpoint_every", "log_every")  # whole numbers of steps
TEXTS = ("device", "precision", "table", "row", "runs", "run", "resume")
KEYS_OF_GROUPS = {
    **dict.fromkeys(("main_net", "hypernet"), ("kind", "name")),
    **dict.fromkeys(("optimizer", "schedule"), ("kind",)),
    "dataset": ("task", "name"),
}
KNOWN = (*GROUPS, *INTERVALS, *TEXTS, "compile", "sync_batch_norm", "gradient_clip", "seed")

# Two runs are the same if all their settings agree but these, which change nothing in the result but rounding and, with
# another kind of device, what is drawn there.
# The content of the data is compared by its digest.
CHANGE_NOTHING = (
    *("logger", "runs", "run", "resume", "dataset.root", "dataset.path", "device", "compile"),
    *("checkpoint_every", "log_every"),
)
# When a run goes on, it may change these, too.
MAY_CHANGE = (*CHANGE_NOTHING, "steps", "validate_every", "schedule", "gradient_clip", "precision", "table", "row")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the settings that belong to no group."""
    for key in KNOWN:
        if key not in settings:
            raise UserError(f"The setting {key} is missing; it cannot be taken away.")
    for key, value in settings.items():
        if key not in KNOWN:
            raise UserError(f"There is no setting {key!r}; the settings are {', '.join(KNOWN)}.")
        if key in GROUPS and not isinstance(value, Mapping):
            raise UserError(f"{key} is {value!r}; choose one of its files, as python train.py --help shows them.")
        for own in KEYS_OF_GROUPS.get(key, ()):
            if not isinstance(value.get(own), str):
                raise UserError(f"{key}.{own} is {value.get(own)!r}; it must be text, as in the files of {key}.")
        if key == "compile" and not isinstance(value, bool) and value != "auto":
            raise UserError(f"compile is {value!r}; it must be auto, true or false.")
        if key == "sync_batch_norm" and not isinstance(value, bool):
            raise UserError(f"{key} is {value!r}; it must be true or false.")
        if key in TEXTS and not (isinstance(value, str) and value) and (value is not None or key in ("runs", "device")):
            raise UserError(f"{key} is {value!r}; it must be text, and not empty.")
    for key in INTERVALS:
        require_whole(key, settings[key])
    require_whole("seed", settings["seed"], least=0)
    if settings["gradient_clip"] is not None:
        require_number("gradient_clip", settings["gradient_clip"], above=0)


def refuse_changes(earlier: Mapping[str, Any], now: Mapping[str, Any], run: object) -> None:
    """Raise UserError if the settings to resume a run with differ from its own, except those that may change."""
    before, after = what_counts(earlier, MAY_CHANGE), what_counts(now, MAY_CHANGE)
    changed = [
        f"{key} (was {before.get(key)!r}, now {after.get(key)!r})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise UserError(f"The run {run} cannot resume with another {', '.join(changed)}; start a new run for that.")


def what_counts(settings: Mapping[str, Any], leaving_out: tuple[str, ...] = CHANGE_NOTHING) -> dict[str, Any]:
    """The settings as {"group.key": value}, leaving out those listed."""
    return {
        key: value
        for key, value in flat(settings).items()
        if not any(key == other or key.startswith(other + ".") for other in leaving_out)
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with joined keys: {"a": {"b": 1}} as {"a.b": 1}."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values
