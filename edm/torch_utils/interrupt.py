"""Signals that stop a process in good order."""

import os
import signal
import threading
from collections.abc import Sequence


def end_in_order_on_signals() -> None:
    """Let SIGTERM and SIGHUP, unless they are handled already, end this process by SystemExit, once.

    So temporary files are removed. The status is 128 + the signal's number.
    """
    for name in ('SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)  # Windows lacks the second
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame) -> None:
    signal.signal(number, signal.SIG_IGN)  # Slurm and torchrun may both send it
    os.write(2, f'\nError: stopped by {signal.Signals(number).name}\n'.encode())
    raise SystemExit(128 + number)


class StopSignals:
    """While entered, the first of `numbers` (SIGINT and SIGTERM) is kept in `received`, for a loop to check.

    The next one stops at once: SIGINT raises KeyboardInterrupt, others SystemExit with status 128 + number.
    Outside the main thread, where Python takes no signals, nothing is noted.
    says: what follows a first signal, for a line on stderr.
    """

    def __init__(self, says: str = 'a state is saved after this step',
                 numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)):
        self.received: int | None = None
        self._says, self._numbers, self._earlier = says, numbers, {}

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.received is None:
            self.received = number
            # Not through sys.stderr, which the signal may have interrupted.
            os.write(2, f'\n{signal.Signals(number).name}: {self._says}; a second signal stops at '
                        'once\n'.encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)
