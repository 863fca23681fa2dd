"""Checkpoints that survive a kill at any moment.

A checkpoint is one dictionary of tensors and plain Python values. It is written to a temporary file, forced to disk
and renamed, and the one before it is kept: whenever the process or the machine stops, at least one complete
checkpoint is on disk. Each knows the id of its run.
"""

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hypernets import UserError

NEWEST = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
BEST = "best.pt"
PREVIOUS_BEST = "best.previous.pt"
DAMAGED = "checkpoint.damaged.pt"
KEYS = {"run", "step", "looked_at", "network", "optimizer", "carried", "window", "window_steps", "best", "metrics"}
KEYS_OF_BEST = {"run", "step", "network"}


class UnsafeCheckpoint(UserError):
    """A complete checkpoint that holds more than data: not an accident, so no other file is tried instead."""


ROOM = "the old file is kept. Make room on the disk, or let it be written, then resume with -r"


@contextmanager
def writing(what: object, remedy: str = ROOM) -> Iterator[None]:
    """Within this context, an OSError becomes a UserError that says what cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {what} ({error.strerror}); {remedy}.") from None


def write_atomically(path: Path, content: bytes, keep: Path | None = None, remedy: str = ROOM) -> None:
    """Replace the file at `path`; a reader sees the old file or the new one, never a part.

    The old file is moved to `keep`, if that is given. An OSError becomes a UserError that ends in the remedy.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path, remedy):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the renames themselves
        finally:
            os.close(descriptor)


def save(path: Path, state: dict[str, Any], keep: Path) -> None:
    """Write a checkpoint; the one that it replaces is moved to `keep`."""
    content = io.BytesIO()  # torch.save does not say why it could not write to a file
    torch.save(state, content)
    write_atomically(path, content.getbuffer(), keep)


def save_best(directory: Path, state: dict[str, Any]) -> None:
    """Write the best network so far; the one before is kept, for a checkpoint that is older than this one."""
    save(directory / BEST, state, directory / PREVIOUS_BEST)


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Write the newest checkpoint; the one that it replaces is kept as the previous one."""
    save(directory / NEWEST, state, directory / PREVIOUS)


Moves = list[tuple[Path, Path]]  # files to rename, in this order


def load_checkpoint(directory: Path, run: str) -> tuple[dict[str, Any], Moves]:
    """Return the newest complete checkpoint of a run, on the CPU; say so if that is not the newest file.

    Nothing is changed here. The next save must not replace a file that the checkpoint needs with one that it does not:
    the moves see to that, before training goes on.
    """
    state, problems = read_newest(directory, run)
    moves: Moves = []
    if problems:
        print(f"{problems[0]} Going on from {directory / PREVIOUS} (step {state['step']}).", file=sys.stderr)
        if (directory / NEWEST).exists():  # it is not after a kill between the two renames
            moves.append((directory / NEWEST, directory / DAMAGED))
    if state["best"] is not None:
        _, path = _find_best(directory, run, state["best"]["step"])
        if path is None:
            print(f"The best network of {directory}, of step {state['best']['step']}, is lost.", file=sys.stderr)
            state["best"] = None
        elif path.name == PREVIOUS_BEST:
            moves.append((path, directory / BEST))
    return state, moves


def load_best(directory: Path, run: str, step: int | None = None) -> dict[str, Any] | None:
    """Return the best network (of the given step, if any); None if it is lost."""
    return _find_best(directory, run, step)[0]


def _find_best(directory: Path, run: str, step: int | None) -> tuple[dict[str, Any] | None, Path | None]:
    """The best network and its file: after a kill, the newer one may be newer than the checkpoint."""
    for path in (directory / BEST, directory / PREVIOUS_BEST):
        try:
            state = load(path, run, KEYS_OF_BEST)
        except UnsafeCheckpoint:
            raise
        except UserError:
            continue
        if step is None or state["step"] == step:
            return state, path
    return None, None


def read_newest(directory: Path, run: str) -> tuple[dict[str, Any], list[str]]:
    """Return the newest complete checkpoint of a run, on the CPU, and what is wrong with a newer file."""
    problems = []
    for path in (directory / NEWEST, directory / PREVIOUS):
        try:
            return load(path, run, KEYS), problems
        except UnsafeCheckpoint:
            raise
        except UserError as problem:
            problems.append(str(problem))
    raise UserError(f"{' '.join(problems)} The run cannot go on; put one of these files back, or start a new run.")


def load(path: Path, run: str, keys: set[str]) -> dict[str, Any]:
    """Return what was saved at `path`, on the CPU; it must belong to the run with that id and have these keys.

    Raises:
        UserError: the file is missing, damaged (its checksums are verified), or not a checkpoint of this run.
        UnsafeCheckpoint: it holds more than tensors and plain values, and so could run code when it is loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare checksums
            # torch.save leaves the attributes 0, and torch.load reads nothing where they say "directory".
            damaged = next((entry.filename for entry in archive.infolist() if entry.external_attr), archive.testzip())
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except pickle.UnpicklingError:
        raise UnsafeCheckpoint(
            f"The checkpoint {path} holds more than tensors and plain values and was not loaded, since loading it "
            "could run code; use a checkpoint that this program wrote."
        ) from None
    except Exception as error:  # both readers raise a dozen kinds, depending on which byte is wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The checkpoint {path} is truncated, corrupt or not a checkpoint ({reason}).") from None
    if not isinstance(state, dict) or not keys <= state.keys():
        missing = ", ".join(sorted(keys - state.keys())) if isinstance(state, dict) else "everything"
        raise UserError(f"The checkpoint {path} is not one that this program wrote: it lacks {missing}.")
    if state["run"] != run:
        raise UserError(f"The checkpoint {path} belongs to another run; put back the one that this run wrote.")
    return state
