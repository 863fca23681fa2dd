"""Checkpoints that survive a kill at any moment.

A checkpoint is one dictionary of tensors and plain Python values. It is written to a temporary file, forced to disk
and renamed, and the one before it is kept: whenever the process or the machine stops, at least one complete
checkpoint is on disk.
"""

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

NEWEST = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
BEST = "best.pt"
PREVIOUS_BEST = "best.previous.pt"
DAMAGED = "checkpoint.damaged.pt"


class UnsafeCheckpoint(ValueError):
    """A whole checkpoint that holds more than data: not an accident, so no other file is tried in its place."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Replace the file at `path` by what `write(file)` writes; a reader sees the old file or the new one, never a part.

    The old file is moved to `keep`, where that is given.

    Raises:
        ValueError: it cannot be written; the old file stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError where the disk is full
        temporary.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ValueError(
            f"Cannot write {path} ({reason}); what was there is kept. Make room on the disk, or let it be written, "
            "then resume with -r."
        ) from None
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the renames themselves
    finally:
        os.close(descriptor)


def save_best(directory: Path, state: dict[str, Any]) -> None:
    """Write the best model so far; the one before is kept, for a checkpoint that does not know this one."""
    write_atomically(directory / BEST, lambda file: torch.save(state, file), keep=directory / PREVIOUS_BEST)


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Write the newest checkpoint; the one that was the newest is kept as the previous one."""
    write_atomically(directory / NEWEST, lambda file: torch.save(state, file), keep=directory / PREVIOUS)


def load_checkpoint(directory: Path) -> dict[str, Any]:
    """Return the newest complete checkpoint, on the CPU, to go on from; warn where that is not the newest file.

    The newest file is moved aside then, so that the next save does not put it in the place of the complete one.

    Raises:
        ValueError: as `read_newest`.
    """
    state, problems = read_newest(directory)
    if problems:
        previous = f"{directory / PREVIOUS} (step {state['step']})"
        warnings.warn(f"{problems[0]} Continuing from {previous} instead.", stacklevel=2)
        os.replace(directory / NEWEST, directory / DAMAGED)
    if state["best"] is not None:
        _go_back_to_best(directory, state)
    return state


def _go_back_to_best(directory: Path, state: dict[str, Any]) -> None:
    """Put back the best model that a checkpoint knows, where a process was killed between a better one and its save."""
    for path in (directory / BEST, directory / PREVIOUS_BEST):
        if path.exists() and load(path)["step"] == state["best"]["step"]:
            if path.name == PREVIOUS_BEST:
                os.replace(path, directory / BEST)
            return
    warnings.warn(f"The best network of {directory}, of step {state['best']['step']}, is lost.", stacklevel=3)
    state["best"] = None


def read_newest(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the newest complete checkpoint, on the CPU, and what is wrong with a newer file.

    Changes nothing, and can be called while a training saves there.

    Raises:
        ValueError: no checkpoint, none that is complete, or one that is not data alone.
    """
    problems = []
    for path in (directory / NEWEST, directory / PREVIOUS):
        try:
            return load(path), problems
        except FileNotFoundError:
            continue
        except UnsafeCheckpoint:
            raise
        except ValueError as problem:
            problems.append(str(problem))
    raise ValueError(" ".join(problems) or f"There is no checkpoint in {directory}; start a new run, or name another.")


def load(path: Path) -> dict[str, Any]:
    """Return what was saved at `path`, on the CPU.

    Raises:
        ValueError: the file is truncated or corrupt (its checksums are verified).
        UnsafeCheckpoint: it holds more than tensors and plain values, which could run code when it is loaded.
        FileNotFoundError: there is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare checksums
            # torch.save leaves the attributes 0, and torch.load reads nothing where they say "directory".
            damaged = next((entry.filename for entry in archive.infolist() if entry.external_attr), archive.testzip())
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:
        raise UnsafeCheckpoint(
            f"The checkpoint {path} holds more than tensors and plain values and was not loaded, since loading it "
            "could run code; use a checkpoint that this program wrote."
        ) from None
    except Exception as error:  # both readers raise a dozen kinds, depending on which byte is wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"The checkpoint {path} is truncated, corrupt or not a checkpoint ({reason}).") from None
