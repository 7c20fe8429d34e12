"""
Writes the hand's log to standard error, in a thread of its own.

Standard error of a child is a pipe to the agent. A pipe that nobody reads is full after some hundred lines, and one
whose reader has died raises an error: a hand that wrote to it in place would stop restoring leases just when the agent
hangs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading

MAX_WAITING = 4096  # lines; later ones are dropped, and counted


class LogWriter:
    """Takes lines from every thread, and never makes one wait."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING)
        self._dropped_count = 0
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def write(self, message: str) -> None:
        """Queues a line; drops it where too many wait."""
        try:
            self._lines.put_nowait(message)
        except queue.Full:
            self._dropped_count += 1

    def _write_lines(self) -> None:
        while (message := self._lines.get()) is not None:
            count, self._dropped_count = self._dropped_count, 0
            lines = [f"{count} lines of the log were dropped", message] if count else [message]
            with contextlib.suppress(OSError):  # the reader has died; there is nobody to tell
                os.write(self._descriptor, "".join(f"hand: {line}\n" for line in lines).encode())

    def close(self, timeout: float) -> None:
        """Writes what waits, for `timeout` seconds at most."""
        with contextlib.suppress(queue.Full):  # nobody reads
            self._lines.put_nowait(None)
        self._thread.join(timeout)
