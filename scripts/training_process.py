"""Run train.py from another script, so that stopping that stops the training as if it had been started by hand."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PROJECT = Path(__file__).resolve().parent.parent


def run_training(arguments: Sequence[str]) -> None:
    """Run train.py in the checkout and wait for it.

    It has a session of its own: a Ctrl-C in the terminal would otherwise reach it beside the signal that is passed on
    here, and a second signal ends a training without a checkpoint.

    Raises:
        SystemExit: train.py failed or was stopped; with its exit status. It has said why.
    """
    stopped = []
    process = subprocess.Popen([sys.executable, "train.py", *arguments], cwd=PROJECT, start_new_session=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        process.send_signal(number)

    handled = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, pass_on) for number in handled}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if status or stopped:
        sys.exit(status if status > 0 else 128 - status if status else 128 + stopped[0])
