"""Mirrors a run to Weights & Biases, offline unless asked otherwise.

The run's `metrics.jsonl` is the truth and W&B a copy of it. Offline, every start of a run writes a new
fragment `wandb/offline-run-*` under the same run id. A killed process leaves a fragment that lacks its last
rows (wandb writes in blocks), may end in half a record, and may hold rows past the checkpoint from which the
run is resumed, perhaps with another rate. At each start the fragments are therefore read back: half a record
and rows past the checkpoint are cut off, rows that are there already are skipped, and those that were lost are
logged again when the caller passes all rows it kept. What the server has by then cannot be cut: rows past the
checkpoint stay there as they were.
"""

import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

RUN_ID_FILE = "wandb_run_id.txt"

# The format of a .wandb file: a header, then LevelDB's log format with IEEE checksums.
_HEADER = b":W&B\xe1\xbe\x00"
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")  # checksum, length, type
_FULL, _FIRST, _LAST = 1, 2, 4  # 3 is a middle


class WandbLogger:
    """One W&B run, kept under one run id over every resume of `directory`.

    After a resume, pass every row kept in `metrics.jsonl` to `log`, oldest first, then go on training: rows
    that W&B already has are skipped, so that each step is there exactly once however earlier processes ended.

    Online, the server says which step it has last. That path was tried against a stub of W&B's server, not
    the public one. Sync what a run has offline before it goes on online, or never: it is sent again.

    Attributes:
        address: where to look: the run's URL online, the directory of this fragment offline.
        last_step: the last step that W&B has, -1 if none.
        shows_images: whether it is worth making images for it.
    """

    shows_images = True

    def __init__(
        self,
        directory: Path,
        *,
        mode: str,
        project: str,
        entity: str | None,
        name: str,
        group: str | None,
        job_type: str,
        tags: list[str],
        config: dict,
        last_kept_step: int = -1,
    ):
        """Starts the run, or a new fragment of the run that `directory` already holds.

        Args:
            directory: the run's directory; W&B's files go into its folder `wandb`, the id into `RUN_ID_FILE`.
            mode: "offline" (no account, no prompt, no network) or "online".
            project, entity, name, group, job_type, tags: as in `wandb.init`; they win over the environment.
            config: nested, plain values.
            last_kept_step: of the last row in `metrics.jsonl`, -1 if there is none; later ones are cut off here too.

        Raises:
            ValueError: on another mode, or online without credentials or an answer.
        """
        wandb = _start_wandb(mode)
        self.last_step = _repair_fragments(directory / "wandb", last_kept_step)
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
        try:
            self._run = wandb.init(
                dir=str(directory),
                id=_run_id(directory / RUN_ID_FILE),
                # Recorded in the fragment too: `wandb sync` then appends it to the run instead of replacing it.
                resume="allow",
                mode=mode,
                project=project,
                entity=entity,
                name=name,
                group=group,
                job_type=job_type,
                tags=tags,
                config=config,
                allow_val_change=True,  # a resumed run may have a longer budget
                reinit="create_new",  # a sweep starts many runs in one process, and one of them may have failed
                settings=settings,
            )
        except wandb.Error as error:
            raise ValueError(
                f"W&B did not start ({error}); check logger.entity, logger.project and `wandb login`, or log offline."
            ) from None
        if mode == "online":
            # The server alone knows what reached it: a run that was offline so far is sent whole.
            self.last_step = self._run.starting_step - 1
        self.address = self._run.url if mode == "online" else str(Path(self._run.dir).parent)
        for axis in ("step", "epoch", "examples"):
            self._run.define_metric(axis)
        self._run.define_metric("*", step_metric="step")
        self._image, self._html = wandb.Image, wandb.Html
        self._started_after = self.last_step

    def log(self, row: Mapping[str, float], images: Mapping[str, np.ndarray | str] | None = None) -> None:
        """Logs all there is about one step; does nothing if an earlier process logged that step.

        Args:
            row: "step" (whole, rising from call to call), "epoch", "examples" and the metrics.
            images: uint8 arrays of shape [height, width, 3], or HTML pages, by name.

        Raises:
            ValueError: on a step that does not rise, or an image of another type or shape.
        """
        step = row["step"]
        if step <= self._started_after:
            return
        if step <= self.last_step:
            raise ValueError(f"Step {step} cannot follow step {self.last_step} in the W&B log.")
        values = dict(row)
        for name, image in (images or {}).items():
            if isinstance(image, str):
                values[name] = self._html(image, inject=False, data_is_not_path=True)
                continue
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                found = f"{image.dtype} {list(image.shape)}"
                raise ValueError(f"Image {name} must be uint8 [height, width, 3], not {found}.")
            values[name] = self._image(image)
        # wandb's own step counter restarts with every fragment unless it is told the step.
        self._run.log(values, step=step, commit=True)
        self.last_step = step

    def summary(self, values: Mapping[str, float]) -> None:
        """Sets values of the run as a whole: its best validation metric, test metric, parameter count."""
        self._run.summary.update(dict(values))

    def finish(self, exit_code: int = 0) -> None:
        """Writes what is left and closes the fragment; another code than 0 marks the run as failed."""
        import wandb

        self._run.finish(exit_code=exit_code)
        wandb.teardown()  # the run's finish alone may return before the file has its last bytes


def _start_wandb(mode: str):
    """Imports wandb for a mode, in which no prompt appears; raises as `WandbLogger`."""
    if mode not in ("offline", "online"):
        raise ValueError(f"logger.mode must be offline or online, not {mode!r}.")
    os.environ["WANDB_MODE"] = mode  # wandb.login reads it; the configuration wins over the shell
    # A parent's wandb service would outlive a kill of this process and go on holding the run id.
    os.environ.pop("WANDB_SERVICE", None)
    if mode == "offline":
        # Offline mode alone does not stop wandb's telemetry from looking up its server.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb  # half a second: only those who log to it pay

    wandb.setup(wandb.Settings(silent=True))
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise ValueError("W&B has no credentials to log online: run `wandb login`, set WANDB_API_KEY, or log offline.")
    return wandb


def _run_id(path: Path) -> str:
    """The id in `path`, or a new one, written there atomically."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.write(secrets.token_hex(5))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return path.read_text().strip()


def _repair_fragments(directory: Path, last_kept_step: int) -> int:
    """Readies the fragments of earlier processes for `wandb sync`; returns the last step in any, or -1.

    Rows after `last_kept_step` are cut off, except from a fragment that was sent already.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    last_step = -1
    for path in sorted(directory.glob("*run-*/run-*.wandb")):
        if path.parent.is_symlink():  # latest-run
            continue
        data = path.read_bytes()
        if not _HEADER.startswith(data[: len(_HEADER)]):
            continue  # a format of another wandb: not ours to cut
        end, holds_run, finished = len(_HEADER), False, False
        is_sent = not path.parent.name.startswith("offline-") or path.with_name(path.name + ".synced").exists()
        for content, after in _records(data):
            record = Record.FromString(content)
            if record.HasField("history"):
                if record.history.step.num > last_kept_step and not is_sent:
                    break
                last_step = max(last_step, record.history.step.num)
            end = after
            holds_run |= record.HasField("run")
            finished |= record.HasField("exit")
        if not holds_run:
            shutil.rmtree(path.parent)  # killed before its first write: nothing to sync
        elif not finished:
            # `wandb sync` stops at half a record and leaves out every later fragment of the run. A new file,
            # since the wandb process of a run just killed may still be writing to the old one.
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(data[:end])
            temporary.replace(path)
    return last_step


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields each complete record of a .wandb file's bytes and the position after it."""
    position, record = len(_HEADER), b""
    while True:
        room = _BLOCK - position % _BLOCK
        if room < _CHUNK.size:
            position += room  # padding: a chunk's head never spans two blocks
        if position + _CHUNK.size > len(data):
            return
        checksum, length, kind = _CHUNK.unpack_from(data, position)
        start, position = position + _CHUNK.size, position + _CHUNK.size + length
        chunk = data[start:position]
        if len(chunk) < length or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        record = chunk if kind in (_FULL, _FIRST) else record + chunk
        if kind in (_FULL, _LAST):
            yield record, position
