"""Signals that ask a run to stop: Ctrl-C, a cluster that takes the machine back or is about to end the job."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """A signal asked the run to stop; it has saved a checkpoint.

    Attributes:
        signal_number: the signal.
        handler: what was to happen on the signal before this run noted it, or None for the default, to end. Under
            submitit, it puts the job back into the queue.
    """

    def __init__(self, signal_number: int, handler: Any) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.handler = handler if callable(handler) and handler is not signal.default_int_handler else None


class StopSignals:
    """The signal that asked this process to stop, if one has.

    SIGINT is always noted, SIGTERM only where nobody else handles it, SIGUSR1 and SIGUSR2 only where somebody does.
    submitit does: a Slurm job gets one before its time limit and when it is preempted, often together with a SIGTERM,
    which submitit passes over.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._previous: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether one was received."""
        return bool(self._received)

    def interruption(self) -> Interrupted:
        """The exception for the signal received, or for the SIGTERM that another process received."""
        number = self._received[0] if self._received else signal.SIGTERM
        return Interrupted(number, self._previous.get(number))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within this context signals are noted instead of ending the process; a second one ends it."""
        numbers = [signal.SIGINT]
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            is_handled = callable(signal.getsignal(number))
            if is_handled == (number != signal.SIGTERM):
                numbers.append(number)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self._received.append(number)
        signal.signal(number, self._previous[number])
        print(f"{signal.Signals(number).name}: saving a checkpoint before stopping.", file=sys.stderr, flush=True)
