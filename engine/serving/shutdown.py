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
    from engine.serving.server import EngineServer  # imports NumPy, and signals are to be heard before

LAST_PASS_TIMEOUT = 2.0  # seconds; a pass takes milliseconds, and an exit in the middle of BLAS may crash
RESPONSE_TIMEOUT = 1.0  # seconds for answers that are made to reach their clients
CHECK_INTERVAL = 0.05  # seconds between looks whether a second signal has come


class GracePeriod:
    """How many seconds the end may take; what signals change."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._is_signalled = False

    def install_handlers(self) -> None:
        """From now on SIGTERM and SIGINT raise SystemExit in the main thread, once; after that they hurry."""
        signal.signal(signal.SIGTERM, self._handle_signal)
        signal.signal(signal.SIGINT, self._handle_signal)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_signalled or number == signal.SIGINT:
            self.seconds = 0.0
        if not self._is_signalled:
            self._is_signalled = True
            raise SystemExit(0)


def serve(server: EngineServer, grace: GracePeriod, ready_line: str, *, until_stdin_closes: bool) -> None:
    """Answers until it is told to end; prints `ready` once it does."""
    server.served_model.scheduler.start()
    # Looking whether to stop twice a second would wake an idle machine for nothing: the process just ends.
    threading.Thread(target=server.serve_forever, args=(3600.0,), daemon=True).start()
    try:
        wait_for_exit(ready_line, until_stdin_closes=until_stdin_closes)
    finally:
        drain(server, grace)
        if not server.served_model.scheduler.stop(LAST_PASS_TIMEOUT):
            os._exit(0)


def wait_for_exit(ready_line: str, *, until_stdin_closes: bool) -> NoReturn:
    """Prints `ready`, and waits until a signal or the end of standard input raises SystemExit."""
    if until_stdin_closes:
        threading.Thread(target=_exit_with_stdin, daemon=True).start()
    print(ready_line, flush=True)  # noqa: T201  the one line that the caller waits for
    _wait_for_signal()


def _wait_for_signal() -> NoReturn:
    # The kernel may give a signal to any thread. Only a write to this pipe wakes the main thread whichever took it, to
    # run the handler in Python: in a lock it sleeps on.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    while True:
        os.read(reader, 1)


def drain(server: EngineServer, grace: GracePeriod) -> bool:
    """Finishes what was taken, and refuses the rest; False where patience was too short."""
    server.served_model.scheduler.stop_accepting()
    started = time.monotonic()
    while not server.served_model.scheduler.wait_until_idle(CHECK_INTERVAL):
        if time.monotonic() - started >= grace.seconds:
            return False
    return server.wait_for_responses(min(grace.seconds, RESPONSE_TIMEOUT))


def _exit_with_stdin() -> None:
    # The caller holds the other end: however it dies, the kernel closes it, and no engine is left behind.
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGINT)
