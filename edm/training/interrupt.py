"""SIGINT and SIGTERM as the wish to save and stop."""

import os
import signal
import threading


class StopSignals:
    """While entered, a first SIGINT or SIGTERM is noted in `received` for the loop to see.

    The next one stops at once: SIGINT raises KeyboardInterrupt, SIGTERM SystemExit with status 143.
    Outside the main thread, where Python takes no signals, nothing is noted.
    """

    def __init__(self):
        self.received: int | None = None
        self._earlier = {}

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note)
                             for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.received is None:
            self.received = number
            # Not through sys.stderr, which the signal may have interrupted.
            os.write(2, f'\n{signal.Signals(number).name}: a state is saved after this step; a second '
                        'signal stops at once\n'.encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)
