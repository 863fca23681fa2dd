"""Signals that ask a run to stop: Ctrl-C, or a cluster that takes the machine back or is about to end the job."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Interrupted(Exception):
    """A signal asked the run to stop; by the time this leaves the run, a checkpoint has been saved.

    `handler` is the handler that the signal had before, or None for the default, which ends the process. Under
    submitit, it puts the job back into the queue.
    """

    def __init__(self, signal_number: int, handler: Any) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.handler = handler if callable(handler) and handler is not signal.default_int_handler else None


class StopSignals:
    """The signal that asked this process to stop, if one has.

    SIGINT is always noted, SIGTERM only if nothing else handles it, SIGUSR1 and SIGUSR2 only if something does.
    submitit does: a Slurm job gets one before its time limit and when it is preempted, often together with a SIGTERM,
    which submitit ignores.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._previous: dict[int, Any] = {}

    def interruption(self) -> Interrupted:
        """The exception for the signal received, or for the SIGTERM that another process received."""
        number = self.received[0] if self.received else signal.SIGTERM
        return Interrupted(number, self._previous.get(number))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within this context signals are noted instead of ending the process; the same one again ends it."""
        numbers = [signal.SIGINT]
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            if callable(signal.getsignal(number)) == (number != signal.SIGTERM):
                numbers.append(number)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received.append(number)
        signal.signal(number, self._previous[number])
        with suppress(OSError):  # Ctrl-C also ends the other programs of a pipe, such as tee
            os.write(2, f"{signal.Signals(number).name}: saving a checkpoint before stopping.\n".encode())
