"""A run and its directory, runs/NAME/: what was asked for, what happened, and what came out.

run.json         its id, the overrides of the first and of the last launch, the digest of the data set
config.yaml      the composed configuration of the last launch
metrics.jsonl    one row per logged step; the same bytes however often the run was interrupted
sessions.json    one entry per process that trained here: command, commit, versions, hardware, steps, seconds;
                 apart from the checkpoints and metrics, whose bytes do not depend on the clock
checkpoint.pt    the newest checkpoint, checkpoint.previous.pt the one before, best.pt the best on validation
pictures/        the newest kernels as images, or sampled text
result.json      the final result
wandb/           the W&B files, wandb_unfinished/ the one that is being written, wandb.json what was synced
lock             held by the process that trains here
"""

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml  # comes with omegaconf
from omegaconf import OmegaConf

from hypernets import UserError
from training import checkpoint
from training.checkpoint import write_atomically, writing
from training.json_files import NUMBER, parsed, read_json, write_json
from training.settings import refuse_changes

RUN = "run.json"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SESSIONS = "sessions.json"
RESULT = "result.json"
LOCK = "lock"
LEFT_BY_A_KILL = (LOCK, CONFIG, CONFIG + ".tmp", RUN + ".tmp")  # before run.json was written


class Run:
    """The run that this process trains: a new one, or the one at `path`, which is resumed.

    Nothing is written before `start`, so a run that cannot begin leaves nothing behind, and a resume that is refused
    changes nothing. The settings are plain values; the overrides led to them, and a later resume repeats them.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
        self.path = path
        self.is_new = not (path / RUN).exists()
        self.steps_done = 0  # after how many steps the run had its last final result
        self._config = OmegaConf.to_yaml(dict(settings))
        self._overrides = list(overrides)
        self._lock: Any = None
        self._sessions: list[dict[str, Any]] = []
        self._moves: checkpoint.Moves = []  # of checkpoints, when the run goes on
        self._began = time.monotonic()
        if self.is_new:
            if path.is_dir() and any(each.name not in LEFT_BY_A_KILL for each in path.iterdir()):
                raise UserError(f"{path} is not empty and holds no run; choose another name with run=NAME.")
            self._facts: dict[str, Any] = {"id": secrets.token_hex(8), "resumed_with": []}
        else:
            self._take_lock()
            try:
                self._facts = read_facts(path)
                refuse_changes(read_settings(path), settings, path)
                self._sessions = read_sessions(path)
                self.steps_done = read_result(path)["steps"] if (path / RESULT).exists() else 0
            except UserError:
                self.close()
                raise
        self.id: str = self._facts["id"]  # what its checkpoints are marked with

    def newest_checkpoint(self, data_digest: str) -> dict[str, Any] | None:
        """Return the checkpoint to resume from; None if the run is new, or was stopped before its first checkpoint.

        The data set, the checkpoints and the metrics must not have changed.
        """
        if self.is_new:
            self._facts["data"] = data_digest
            return None
        if self._facts["data"] != data_digest:
            raise UserError(
                f"The data set that was read is not the one that {self.path} was trained on; point dataset.root or "
                "dataset.path to that one, or start a new run."
            )
        if not any((self.path / name).exists() for name in (checkpoint.NEWEST, checkpoint.PREVIOUS)):
            if read_rows(self.path):
                raise UserError(f"{self.path} has metrics but no checkpoint to go on from; start a new run.")
            return None
        saved, self._moves = checkpoint.load_checkpoint(self.path, self.id)
        metrics, mark = self.path / METRICS, saved["metrics"]
        content = metrics.read_bytes()[: mark["size"]] if metrics.exists() else b""
        if {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} != mark:
            raise UserError(f"{metrics} is not what it was at the checkpoint; put it back, or start a new run.")
        return saved

    def start(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Make the directory, or resume in it: from here on it is written to.

        Rows that a killed process logged after the checkpoint's mark, `metrics`, are dropped; they will come again.
        """
        with self._writing():
            if self.is_new:
                self.path.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                if (self.path / RUN).exists():
                    raise UserError(f"Another process has begun {self.path} in the meantime; start again to resume it.")
                self._facts["overrides"] = self._overrides
            else:
                self._facts["resumed_with"] = self._overrides
            for old, new in self._moves:
                os.replace(old, new)
            write_atomically(self.path / CONFIG, self._config.encode())
            write_json(self.path / RUN, self._facts)
            self._metrics = open(self.path / METRICS, "ab")  # noqa: SIM115, appended to until the process ends
            self._metrics.truncate(metrics["size"] if metrics else 0)
            self._metrics.seek(0, os.SEEK_END)
        self._digest = hashlib.sha256((self.path / METRICS).read_bytes())
        self.is_new = False

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to the metrics; when this returns, the operating system has it."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with writing(self.path / METRICS):
            self._metrics.write(line)
            self._metrics.flush()
        self._digest.update(line)

    def metrics_mark(self) -> dict[str, Any]:
        """Size and digest of the metrics file, all of it on disk."""
        os.fsync(self._metrics.fileno())
        return {"size": self._metrics.tell(), "sha256": self._digest.hexdigest()}

    def record_session(self, facts: Mapping[str, Any]) -> None:
        """Note how far this process has come, rewriting its entry."""
        session = {**facts, "seconds": round(time.monotonic() - self._began, 1)}
        write_json(self.path / SESSIONS, [*self._sessions, session])

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the final result. If the run was extended, the earlier result is kept under its number of steps."""
        keep = None
        if self.steps_done not in (0, result["steps"]):
            keep = self.path / f"result-{self.steps_done}-steps.json"
        write_json(self.path / RESULT, result, keep)

    def close(self) -> None:
        """Release the lock, for the next run of the same process."""
        if self._lock is not None:
            self._lock.close()

    def _take_lock(self) -> None:
        with self._writing():
            self._lock = open(self.path / LOCK, "a")  # noqa: SIM115, held open until the process ends
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                message = f"Another process is training in {self.path}; wait until it ends, or start a new run."
                raise UserError(message) from None

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"to the run directory {self.path}", "choose another place with runs=PATH, or let it be written")


def path_of_run(settings: Mapping[str, Any]) -> Path:
    """The directory of the run that the settings ask for: by `resume`, by `run`, or a new, descriptive name."""
    if settings["resume"] is not None:
        return Path(settings["resume"])
    runs, name = Path(settings["runs"]).expanduser(), settings["run"]
    if name is None:
        parts = [settings["dataset"]["name"], settings["main_net"]["name"], settings["hypernet"]["name"]]
        name = f"{'-'.join(parts)}-s{settings['seed']}-"
        # A job that goes back into the queue keeps its number and so finds its run again.
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
        if "SUBMITIT_EXECUTOR" in os.environ and job is not None:
            name += f"job{job}"
        else:
            name = _not_taken(runs, name + f"{datetime.now():%Y%m%d-%H%M%S}")
    if not name or "/" in name or name.startswith("."):
        raise UserError(f"The name of a run is {name!r}; it must be the name of a folder, without a slash.")
    return runs / name


def _not_taken(runs: Path, name: str) -> str:
    number = 1
    while (runs / (candidate := name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return candidate


def most_recent_run(runs: Path) -> Path:
    """The run under `runs` that was started or resumed last."""
    found = list(runs.glob(f"*/{RUN}"))
    if not found:
        raise UserError(f"There is no run to resume in {runs}/; start one with python train.py.")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def read_facts(run: Path) -> dict[str, Any]:
    """What run.json says: the id of a run, its overrides, those of its last resume, the digest of its data."""
    if not (run / RUN).exists():
        raise UserError(f"There is no run in {run}: it has no {RUN}; give the directory of a run, such as runs/NAME.")
    return read_json(run / RUN, {"id": str, "data": str, "overrides": [str], "resumed_with": [str]})


def read_settings(run: Path) -> dict[str, Any]:
    """The configuration of a run's last launch, as plain values."""
    try:
        settings = OmegaConf.to_container(OmegaConf.load(run / CONFIG))
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise UserError(f"{run / CONFIG} cannot be read ({' '.join(str(error).split())}); put it back.") from None
    if not isinstance(settings, dict) or not settings:
        raise UserError(f"{run / CONFIG} holds no configuration; put back the one that the run wrote.")
    return settings


def read_sessions(run: Path) -> list[dict[str, Any]]:
    """One entry for each process that trained a run."""
    return read_json(run / SESSIONS, [{"seconds": NUMBER}], default=[])


def read_result(run: Path) -> dict[str, Any]:
    """The final result of a run."""
    if not (run / RESULT).exists():
        raise UserError(f"{run} has no {RESULT}: it is not a run, or has not finished; resume with train.py -r {run}.")
    return read_json(run / RESULT, {"steps": int})


def read_rows(run: Path) -> list[dict[str, Any]]:
    """All rows that a run has logged so far."""
    path = run / METRICS
    return [parsed(path, line, dict) for line in path.read_text().splitlines()] if path.exists() else []
