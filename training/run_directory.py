"""The directory of a run, runs/NAME/: what was asked for, what happened, and what came out.

overrides.json   the overrides of the first launch; written once, read by `train.py -r`
resumed_with.json  the overrides given when it was resumed, such as a longer budget
config.yaml      the composed configuration, of the last launch
data.json        the digest of the data set that it trains on
metrics.jsonl    one row a logged step; the same bytes however often the run was interrupted
sessions.json    one entry a process that trained here: command, commit, versions, hardware, steps, seconds
checkpoint.pt    the newest checkpoint, checkpoint.previous.pt the one before, best.pt the best on validation
result.json      the final result
wandb/           the W&B files
lock             held by the process that trains here
"""

import errno
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import yaml  # comes with omegaconf
from omegaconf import OmegaConf

from training.checkpoint import write_atomically

OVERRIDES = "overrides.json"
RESUMED_WITH = "resumed_with.json"
CONFIG = "config.yaml"
DATA = "data.json"
METRICS = "metrics.jsonl"
SESSIONS = "sessions.json"
RESULT = "result.json"
REQUIRED = object()  # no default


class RunDirectory:
    """The files of one run, locked for this process until it ends.

    Use `RunDirectory.create` for a new run and `RunDirectory.reopen` to go on with one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = open(path / "lock", "a")  # noqa: SIM115, held open until the process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(
                f"Another process is training in {path}; wait until it ends, or start a new run without -r."
            ) from None
        self._metrics = open(path / METRICS, "ab")  # noqa: SIM115, appended to until the process ends
        self._sessions: list[dict[str, Any]] = read_json(path / SESSIONS, default=[])
        self._session_start = time.monotonic()

    @classmethod
    def create(cls, path: Path, overrides: list[str], config: str, data_digest: str) -> "RunDirectory":
        """Make the directory of a new run and keep its overrides, its configuration and the digest of its data.

        A directory of that name that exists already is left alone: the new one gets -2, -3, ... appended.

        Raises:
            ValueError: the directory cannot be written to.
        """
        run = cls(_make_new_directory(path))
        _write_json(run.path / OVERRIDES, overrides)
        run._write_config(config)
        _write_json(run.path / DATA, {"sha256": data_digest})
        run._started()
        return run

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """Go on in the directory of an earlier run, once no other process trains there.

        Raises:
            ValueError: there is no run in it, another process trains in it, or it cannot be written to.
        """
        if not (path / OVERRIDES).exists():
            raise ValueError(f"There is no run to resume in {path}: it has no {OVERRIDES}.")
        try:
            return cls(path)
        except OSError as error:
            raise ValueError(f"Cannot write to the run directory {path}: {error.strerror}.") from None

    def note_resume(self, overrides: list[str], config: str) -> None:
        """Keep the overrides of a resume beside those of the first launch, and the configuration they lead to."""
        first = read_json(self.path / OVERRIDES, default=[])
        _write_json(self.path / RESUMED_WITH, [override for override in overrides if override not in first])
        self._write_config(config)
        self._started()

    def _started(self) -> None:
        os.utime(self.path / "lock")  # when the run was started or resumed last, for `most_recent_run`

    def _write_config(self, config: str) -> None:
        write_atomically(self.path / CONFIG, lambda file: file.write(config.encode()))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows logged so far."""
        return read_rows(self.path)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a row to the metrics; it is on its way to the disk when this returns."""
        self._metrics.write(json.dumps(row).encode() + b"\n")
        self._metrics.flush()

    def metrics_size(self) -> int:
        """Bytes of the metrics file, all of them on disk."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def truncate_metrics(self, size: int) -> None:
        """Drop the rows that a killed process logged after the checkpoint from which its successor goes on.

        Raises:
            ValueError: rows from before the checkpoint are missing.
        """
        if (self.path / METRICS).stat().st_size < size:
            raise ValueError(
                f"{self.path / METRICS} is shorter than it was at the checkpoint, {size} bytes; put it back, or start "
                "a new run."
            )
        self._metrics.truncate(size)
        self._metrics.seek(size)

    def record_session(self, **facts: Any) -> None:
        """Note how far this process has come, rewriting its entry.

        Sessions are kept apart from checkpoints and metrics, whose bytes do not depend on the clock.
        """
        session = {**facts, "seconds": round(time.monotonic() - self._session_start, 1)}
        _write_json(self.path / SESSIONS, [*self._sessions, session])

    def sessions(self) -> list[dict[str, Any]]:
        """One entry for each process that trained here, this one included."""
        return read_json(self.path / SESSIONS, default=[])

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the final result. That of a smaller budget, extended since, is kept under its number of steps."""
        path = self.path / RESULT
        earlier = read_json(path, default=None)
        keep = None
        if earlier is not None and earlier["steps"] != result["steps"]:
            keep = self.path / f"result-{earlier['steps']}-steps.json"
        _write_json(path, result, keep)

    def steps_of_result(self) -> int:
        """After how many steps the run had its last final result; 0 before there is one."""
        return read_json(self.path / RESULT, default={"steps": 0})["steps"]

    def close(self) -> None:
        """Release the lock, for the next run of the same process."""
        self._metrics.close()
        self._lock.close()


def read_settings(run: Path) -> dict[str, Any]:
    """The configuration of a run's last launch, as plain values.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        settings = OmegaConf.to_container(OmegaConf.load(run / CONFIG))
    except yaml.YAMLError as error:
        raise ValueError(f"{run / CONFIG} is not YAML ({error}).") from None
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{run / CONFIG} holds no configuration; put back the one that the run wrote.")
    return settings


def require_same_data(run: Path, data_digest: str) -> None:
    """Compare the data set that was read with the one that a run was trained on.

    Raises:
        ValueError: they differ.
    """
    if read_json(run / DATA, default={"sha256": data_digest})["sha256"] != data_digest:  # older runs did not keep it
        raise ValueError(
            f"The data set that was read is not the one that {run} was trained on; point dataset.root or dataset.path "
            "to that one, or start a new run."
        )


def read_rows(run: Path) -> list[dict[str, Any]]:
    """All rows that a run has logged so far."""
    return read_json_lines(run / METRICS)


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file of one JSON value a line.

    Raises:
        ValueError: a line that is not JSON.
    """
    return [_parsed(path, line) for line in path.read_text().splitlines()]


def read_json(path: Path, default: Any = REQUIRED) -> Any:
    """The content of a JSON file, or `default`, where one is given, if there is no such file.

    Raises:
        ValueError: it is not JSON.
        FileNotFoundError: there is no such file, and no default.
    """
    return default if default is not REQUIRED and not path.exists() else _parsed(path, path.read_text())


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}); put back a whole one, or remove it.") from None


def _write_json(path: Path, value: Any, keep: Path | None = None) -> None:
    content = json.dumps(value, indent=1).encode() + b"\n"
    write_atomically(path, lambda file: file.write(content), keep=keep)


def most_recent_run(runs: Path) -> Path:
    """The run under `runs` with a checkpoint that was started or resumed last.

    Raises:
        ValueError: there is none.
    """
    found = [path.parent for path in runs.glob(f"*/{OVERRIDES}") if any(path.parent.glob("checkpoint*.pt"))]
    if not found:
        raise ValueError(f"There is no run to resume in {runs}/; start one with python train.py.")
    return max(found, key=lambda run: (run / "lock").stat().st_mtime)


def _make_new_directory(path: Path) -> Path:
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if not candidate.is_dir():
                raise ValueError(f"Cannot make the run directory {candidate}: a file is in its place.") from None
            number += 1
        except OSError as error:
            reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror
            raise ValueError(
                f"Cannot make the run directory {candidate}: {reason}; choose another place with runs=PATH."
            ) from None
