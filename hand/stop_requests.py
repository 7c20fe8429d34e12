"""
Why the hand must end: a signal, or the end of something that it cannot live without.

Python runs a signal's handler in the main thread, once that thread wakes. A signal that arrived just before the thread
went to sleep on a lock woke nobody, and a hand in its stop waited for ever. The C level of Python writes the number to
the wakeup descriptor at once, and a read of it cannot miss that. https://docs.python.org/3/library/signal.html
"""

from __future__ import annotations

import os
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class StopRequests:
    """Collects the requests to stop; made in the main thread, once in a process."""

    def __init__(self) -> None:
        """Catches every signal that asks for an end; uncaught, it would end the process with its leases unrestored."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._reasons: list[str] = []
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)

    def add(self, reason: str) -> None:
        """Requests a stop, from any thread."""
        self._reasons.append(reason)
        os.write(self._writer, b"\0")

    def wait(self) -> str:
        """Waits for the first request, and returns the signal's name or the reason."""
        number = os.read(self._reader, 1)[0]
        return signal.Signals(number).name if number else self._reasons[0]
