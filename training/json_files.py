"""JSON files of runs and records, checked before anything is read from them."""

import json
from pathlib import Path
from typing import Any

from hypernets import UserError
from training.checkpoint import write_atomically

NUMBER = (int, float)


def read_json(path: Path, shape: Any, default: Any = None) -> Any:
    """The content of a JSON file; if there is no such file, `default`, unless that is None.

    The shape is a type, a tuple of types, {key: shape}, which may hold more keys, or [shape].
    """
    if not path.exists() and default is not None:
        return default
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from None
    return parsed(path, text, shape)


def write_json(path: Path, value: Any, keep: Path | None = None) -> None:
    """Replace a JSON file; the old one is moved to `keep`, where that is given."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n", keep)


def check_shape(path: Path, place: str, value: Any, shape: Any) -> None:
    """Check that a JSON value, found at a place in a file, has the given shape."""
    kinds = shape if isinstance(shape, tuple) else (shape if isinstance(shape, type) else type(shape),)
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{path} is damaged: {place} is {value!r:.60}; it must be {wanted}. Put back the right file.")
    for item in value if isinstance(shape, list) else []:
        check_shape(path, f"an entry of {place}", item, shape[0])
    for key, inner in shape.items() if isinstance(shape, dict) else []:
        if key not in value:
            raise UserError(f"{path} is damaged: {place} has no {key}. Put back the right file.")
        check_shape(path, key, value[key], inner)


def parsed(path: Path, text: str, shape: Any) -> Any:
    """The value of a JSON text that was found in a file."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not whole JSON ({error}); put back a whole one.") from None
    check_shape(path, "it", value, shape)
    return value
