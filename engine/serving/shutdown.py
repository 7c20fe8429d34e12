"""
From the first answer to the end: signals, the drain, and the end of standard input.

SIGTERM finishes what was taken, for so many seconds, and refuses what comes: 503, also at /healthz. A second signal,
SIGINT, and the end of standard input (the caller is dead) end at once. Always with status 0.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from engine.serving.server import Server  # imports NumPy, and signals are to be heard before

LAST_PASS = 2.0  # seconds; a pass takes milliseconds, and an exit in the middle of BLAS may crash
LAST_WORDS = 1.0  # seconds for answers that are made to reach their clients
LOOK = 0.05  # seconds between looks whether a second signal has come


class Patience:
    """How many seconds the end may take; what signals change."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._told = False

    def listen(self) -> None:
        """From now on SIGTERM and SIGINT raise SystemExit in the main thread, once; after that they hurry."""
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._told or number == signal.SIGINT:
            self.seconds = 0.0
        if not self._told:
            self._told = True
            raise SystemExit(0)


def serve(server: Server, patience: Patience, ready: str, *, until_stdin_closes: bool) -> None:
    """Answers until it is told to end; prints `ready` once it does."""
    server.served.batch.start()
    # Looking whether to stop twice a second would wake an idle machine for nothing: the process just ends.
    threading.Thread(target=server.serve_forever, args=(3600.0,), daemon=True).start()
    try:
        wait(ready, until_stdin_closes=until_stdin_closes)
    finally:
        drain(server, patience)
        if not server.served.batch.stop(LAST_PASS):
            os._exit(0)


def wait(ready: str, *, until_stdin_closes: bool) -> NoReturn:
    """Prints `ready`, and waits until a signal or the end of standard input raises SystemExit."""
    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(ready, flush=True)  # noqa: T201  the one line that the caller waits for
    _wait_for_a_signal()


def _wait_for_a_signal() -> NoReturn:
    # The kernel may give a signal to any thread. Only a write to this pipe wakes the main thread whichever took it, to
    # run the handler in Python: in a lock it sleeps on.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    while True:
        os.read(reader, 1)


def drain(server: Server, patience: Patience) -> bool:
    """Finishes what was taken, and refuses the rest; False where patience was too short."""
    server.served.batch.refuse()
    began = time.monotonic()
    while not server.served.batch.idle(LOOK):
        if time.monotonic() - began >= patience.seconds:
            return False
    return server.quiet(min(patience.seconds, LAST_WORDS))


def _end_with_stdin() -> None:
    # The caller holds the other end: however it dies, the kernel closes it, and no engine is left behind.
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGINT)
