"""Mirrors a run to Weights & Biases, offline unless asked otherwise. The page for users is docs/wandb.md.

metrics.jsonl is the truth, and W&B gets a copy. Offline, each process writes one fragment, a W&B file under the id of
the run. It begins with all rows that the run has by then, so earlier fragments are removed. The exception is rows that
were synced: `wandb sync` appends to what the server has, so the new fragment begins after them.

A fragment grows in `wandb_unfinished` and moves to `wandb` once it is whole. So `wandb sync runs/*/wandb` never finds
the fragment of a process that is running or was killed, and we know which rows were synced without reading it.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypernets import UserError
from training.checkpoint import write_atomically
from training.json_files import read_json

STATE_FILE = "wandb.json"
UNFINISHED = "wandb_unfinished"


class WandbLogger:
    """A `training.logger.Logger` that writes a W&B run, which begins with the rows that are there already.

    The mode is "offline" (no account, no prompt, no network) or "online", where the server says which rows it has.
    `about` (project, entity, group, job_type, tags, config, as in `wandb.init`) takes precedence over the environment.
    """

    def __init__(self, run_path: Path, rows: list[dict[str, float]], mode: str, **about: Any) -> None:
        self._wandb = check_and_import(run_path, mode)
        self._path = run_path.absolute()
        # `last_steps` has the last step of each finished fragment, `pictures` the step and the name of each file, and
        # `last_step`, which is added at the end, is that of all that was logged.
        self._state = {"id": secrets.token_hex(5), "online": False, "last_steps": {}, "pictures": {}}
        if (self._path / STATE_FILE).exists():
            self._state = read_state(self._path)
        self._remove_unsynced_fragments()
        directory = self._path if mode == "online" else self._path / UNFINISHED
        directory.mkdir(exist_ok=True)
        quiet = {"silent": True, "console": "off", "disable_git": True, "disable_code": True, "x_disable_stats": True}
        try:
            self._run = self._wandb.init(
                dir=str(directory),
                mode=mode,
                id=self._state["id"],
                name=self._path.name,
                resume="allow",  # the file says so as well, so that `wandb sync` appends to the run
                allow_val_change=True,  # a resumed run may be longer
                settings=self._wandb.Settings(**quiet),
                **about,
            )
        except self._wandb.Error as error:
            raise UserError(
                f"W&B did not start ({error}); check logger.entity, logger.project and `wandb login`, or log offline."
            ) from None
        self._state["online"] = mode == "online"
        self._write_state()
        synced = self._state["last_steps"].values()
        self._last_step = self._run.starting_step - 1 if mode == "online" else max(synced, default=-1)
        for axis in ("step", "epoch", "examples"):
            self._run.define_metric(axis)
        self._run.define_metric("*", step_metric="step")
        for row in rows:
            pictures = {name: file for file, (step, name) in self._state["pictures"].items() if step == row["step"]}
            self._send(row, {name: self._path / file for name, file in pictures.items()})

    def log(self, row: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Log one step, unless it was synced before."""
        if pictures:
            for name, file in pictures.items():
                self._state["pictures"][os.path.relpath(file, self._path)] = (row["step"], name)
            self._write_state()
        self._send(row, pictures or {})

    def _send(self, row: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        if row["step"] <= self._last_step:
            return
        values = dict(row)
        for name, file in pictures.items():
            if file.exists():
                page = file.suffix == ".html"
                values[name] = self._wandb.Html(str(file), inject=False) if page else self._wandb.Image(str(file))
        self._run.log(values, step=row["step"])  # W&B's own count begins at 0 in each fragment
        self._last_step = row["step"]

    def summary(self, values: Mapping[str, float]) -> None:
        """Set values of the run as a whole."""
        self._run.summary.update(dict(values))

    def finish(self, exit_code: int = 0) -> None:
        """Finish the fragment and move it to where `wandb sync` finds it."""
        fragment = Path(self._run.dir).parent
        self._run.finish(exit_code=exit_code)
        self._wandb.teardown()  # the run's own finish may return before the file has its last bytes
        self._state["last_step"] = self._last_step
        if not self._state["online"]:
            self._state["last_steps"][fragment.name] = self._last_step
        self._write_state()
        if not self._state["online"]:
            (self._path / "wandb").mkdir(exist_ok=True)
            fragment.rename(self._path / "wandb" / fragment.name)
            shutil.rmtree(self._path / UNFINISHED)

    def _remove_unsynced_fragments(self) -> None:
        """Remove the offline fragments that `wandb sync` has not marked, and their last steps.

        A last step without its fragment stays: that one was synced and then removed by `wandb clean`.
        """
        fragments = [*self._path.glob(f"{UNFINISHED}/wandb/offline-run-*"), *self._path.glob("wandb/offline-run-*")]
        unsynced = [fragment for fragment in fragments if not any(fragment.glob("*.wandb.synced"))]
        for fragment in unsynced:
            self._state["last_steps"].pop(fragment.name, None)
        self._write_state()
        for fragment in unsynced:
            shutil.rmtree(fragment)

    def _write_state(self) -> None:
        write_atomically(self._path / STATE_FILE, json.dumps(self._state).encode())


def read_state(run_path: Path) -> dict[str, Any]:
    """What the last logger of the run has noted."""
    return read_json(run_path / STATE_FILE, {"id": str, "online": bool, "last_steps": dict, "pictures": dict})


def check_and_import(run_path: Path, mode: str) -> Any:
    """Return wandb, made quiet and never to prompt; write nothing.

    Raises:
        UserError: the run was logged online and is to go on offline, or there are no credentials to log online.
    """
    state = run_path / STATE_FILE
    if mode == "offline" and state.exists() and read_state(run_path)["online"]:
        raise UserError(f"{run_path} was logged online; resume with logger.mode=online, or with logger=none.")
    os.environ["WANDB_MODE"] = mode  # parts of wandb read only this
    os.environ.pop("WANDB_SERVICE", None)  # a parent's wandb process would outlive a kill of this one
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # it would look up its server even offline
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if wandb.run is not None:
        wandb.finish(exit_code=1)  # an earlier run of a sweep, which ended in an error
    if mode == "online" and not (wandb.api.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")):
        raise UserError("W&B has no credentials to log online: run `wandb login`, set WANDB_API_KEY, or log offline.")
    return wandb
