"""What the scripts need from train.py: the settings that a command line leads to, and running it."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from omegaconf import OmegaConf

PROJECT = Path(__file__).resolve().parent.parent


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that train.py has with these overrides, as plain values.

    Raises:
        HydraException, OmegaConfBaseException: as in train.py, for a setting or a choice that does not exist.
    """
    with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", list(overrides)), resolve=True, throw_on_missing=True)


def run_training(*commands: Sequence[str]) -> None:
    """Run train.py with each of some command lines, all at the same time, and wait for them.

    Stopping this process stops them as if they had been started by hand: a first signal is passed on, so that they
    save a checkpoint. They have sessions of their own, since a Ctrl-C in the terminal would reach them as well.

    Raises:
        SystemExit: one of them failed or was stopped; with its exit status. It has said why.
    """
    program = [sys.executable, str(PROJECT / "train.py")]
    processes = [subprocess.Popen([*program, *command], start_new_session=True) for command in commands]
    stopped: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        statuses = [process.wait() for process in processes]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    failed = next((status for status in statuses if status), 0)
    if failed or stopped:
        sys.exit(128 + stopped[0] if stopped else failed if failed > 0 else 128 - failed)
