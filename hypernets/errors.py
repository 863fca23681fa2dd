"""A user's mistakes: one clear sentence that names the value, what was expected and what to do."""

import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from inspect import signature
from typing import Any


class UserError(ValueError):
    """A mistake that the user can fix; the programs print its message as one line, without a traceback."""


def require_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise UserError unless the value of the setting `name` is a whole number of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


def require_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Raise UserError unless the value of the setting `name` is a finite number within the bounds that are given."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and least <= value <= most and above < value < below:
        return
    bounds = {"of at least": (least, -math.inf), "above": (above, -math.inf), "below": (below, math.inf)}
    bounds["at most"] = (most, math.inf)
    given = [f"{word} {bound:g}" for word, (bound, unbounded) in bounds.items() if bound != unbounded]
    raise UserError(f"{name} is {value!r}; it must be a number{' ' if given else ''}{' and '.join(given)}.")


def require_true_or_false(name: str, value: Any) -> None:
    """Raise UserError unless the value of the setting `name` is a bool; even the text "no" would count as true."""
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; it must be true or false.")


def call_with_settings(function: Callable, group: str, settings: Mapping[str, Any], *arguments: Any) -> Any:
    """Call a function with the settings of a configuration group as keywords, after the positional arguments.

    A setting that the function does not take, or one of its own that is missing, is a UserError.
    """
    parameters = list(signature(function).parameters.values())[len(arguments) :]
    if isinstance(function, partial):  # its keywords are given already
        parameters = [parameter for parameter in parameters if parameter.name not in function.keywords]
    require_known(group, settings, [parameter.name for parameter in parameters])
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in settings:
            name = f"{group}.{parameter.name}"
            raise UserError(f"The setting {name} is missing; add it with +{name}=VALUE.")
    return function(*arguments, **settings)


def require_known(group: str, settings: Iterable[str], known: Collection[str]) -> None:
    """Raise UserError for the first setting of a configuration group that is not one of the known ones."""
    for name in settings:
        if name not in known:
            raise UserError(
                f"Nothing reads the setting {group}.{name} here, only {', '.join(known) or 'those of all kinds'}; "
                f"take it away with ~{group}.{name}, or choose another {group}."
            )


def without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The settings of a configuration group, leaving out those with these names."""
    return {name: value for name, value in settings.items() if name not in names}
