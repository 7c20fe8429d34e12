"""
Serves until the end: signals, the drain, and the end of standard input.

After SIGTERM, running requests get a grace period, and new ones get 503, also /healthz. A second signal, SIGINT, and
the end of standard input (the caller is dead) end the process at once. The status is always 0.
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
    from engine.serving.server import EngineServer  # imports NumPy, and the signal handlers come first

LAST_PASS_TIMEOUT = 2.0  # seconds; a pass takes milliseconds, and an exit within BLAS may crash
RESPONSE_TIMEOUT = 1.0  # seconds for finished responses to reach their clients
CHECK_INTERVAL = 0.05  # seconds between checks for a second signal


class GracePeriod:
    """The seconds that a shutdown may take; signals reduce them to 0."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._is_signalled = False

    def install_handlers(self) -> None:
        """Makes the first SIGTERM or SIGINT raise SystemExit in the main thread, and later signals end the grace."""
        signal.signal(signal.SIGTERM, self._handle_signal)
        signal.signal(signal.SIGINT, self._handle_signal)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_signalled or number == signal.SIGINT:
            self.seconds = 0.0
        if not self._is_signalled:
            self._is_signalled = True
            raise SystemExit(0)


def serve(server: EngineServer, grace: GracePeriod, ready_line: str, *, until_stdin_closes: bool) -> None:
    """Serves until a signal, then drains; prints `ready_line` once it serves."""
    server.served_model.scheduler.start()
    # A long poll interval: polling twice a second would wake an idle machine, and the process just exits.
    threading.Thread(target=server.serve_forever, args=(3600.0,), daemon=True).start()
    try:
        wait_for_exit(ready_line, until_stdin_closes=until_stdin_closes)
    finally:
        drain(server, grace)
        if not server.served_model.scheduler.stop(LAST_PASS_TIMEOUT):
            os._exit(0)


def wait_for_exit(ready_line: str, *, until_stdin_closes: bool) -> NoReturn:
    """Prints `ready_line`, and waits until a signal or the end of standard input raises SystemExit."""
    if until_stdin_closes:
        threading.Thread(target=_exit_with_stdin, daemon=True).start()
    print(ready_line, flush=True)  # noqa: T201  the one line that the caller waits for
    _wait_for_signal()


def _wait_for_signal() -> NoReturn:
    # The kernel may deliver a signal to any thread, but Python runs the handler in the main thread. A write to this
    # pipe wakes the main thread in every case; a main thread that waits for a lock would sleep on.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    while True:
        os.read(reader, 1)


def drain(server: EngineServer, grace: GracePeriod) -> bool:
    """Finishes running requests and refuses new ones; returns False if the grace period was too short."""
    server.served_model.scheduler.stop_accepting()
    started = time.monotonic()
    while not server.served_model.scheduler.wait_until_idle(CHECK_INTERVAL):
        if time.monotonic() - started >= grace.seconds:
            return False
    return server.wait_for_responses(min(grace.seconds, RESPONSE_TIMEOUT))


def _exit_with_stdin() -> None:
    # The caller has the other end of the pipe: however it dies, the kernel closes the pipe and this engine exits.
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGINT)
