"""
Connects to an eye that systemd starts for each connection, with rights that the daemon lacks.

EyeConnection has the methods of ChildProcess. The eye ends when the agent hangs up. Its end of the connection stays
open while its process lives, in uninterruptible sleep too, so a new connection waits until that end has closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import structlog

from agent.runtime.child_process import MAX_LINE, keep_alive, read_line

EYE_SOCKET = "/run/steadytok/eye.sock"


def find_eye_socket(root: str, path: str = EYE_SOCKET) -> str | None:
    """
    Returns the socket of systemd's eye, or None where the agent starts its own.

    Root needs no more rights, and a root folder other than / needs none.
    """
    usable = os.path.abspath(root) == "/" and os.geteuid() != 0 and os.access(path, os.W_OK)
    return path if usable else None


class EyeConnection:
    """One connection to an eye, made again when it ends."""

    pid = None
    """Unknown: as the peer of the connection the kernel names systemd, which listens."""

    def __init__(
        self, name: str, socket_path: str, *, on_line: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self.name = name
        self._socket_path = socket_path
        self._on_line = on_line
        self._on_end = on_end
        self._log = structlog.get_logger().bind(child=name)
        self._writer: asyncio.StreamWriter | None = None
        self._closing = asyncio.Event()
        self._alive = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.start_count = 0

    @property
    def generation(self) -> int | None:
        """The number of the connection, counted from 1; None while there is none."""
        return None if self._writer is None else self.start_count

    @property
    def is_started(self) -> bool:
        """True from start() on, also between two connections."""
        return self._task is not None

    def start(self) -> None:
        """Connects, and connects again after each end until `close`."""
        self._task = asyncio.get_running_loop().create_task(
            keep_alive(self._serve_connection, self._closing, self._log), name=f"connection {self.name}"
        )

    async def _serve_connection(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self._socket_path, limit=MAX_LINE)
        self.start_count += 1
        self._alive.set()
        try:
            while line := await read_line(reader):
                self._on_line(line)
        finally:
            self._writer.close()
            self._writer = None
            self._alive.clear()
            self._on_end()
        if not self._closing.is_set():
            self._log.warning("the eye has closed the connection; connecting again")

    async def wait_until_alive(self, timeout: float) -> bool:
        """Waits until there is a connection; returns False if there is none within `timeout` seconds."""
        with contextlib.suppress(TimeoutError):  # the result shows the timeout
            await asyncio.wait_for(self._alive.wait(), timeout)
        return self._alive.is_set()

    def send(self, line: bytes) -> bool:
        """Writes a line to the eye; returns False while there is no connection."""
        if self._writer is None or self._writer.is_closing():
            return False
        self._writer.write(line)
        return True

    def kill(self) -> None:
        """Hangs up, so that the eye ends. The eye's end closes once the kernel has released its stuck read."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._writer.write_eof()

    async def close(self) -> None:
        """Hangs up for good; systemd ends an eye that is in uninterruptible sleep."""
        self._closing.set()
        self.kill()
        if self._task is None:
            return
        done, _pending = await asyncio.wait({self._task}, timeout=1.0)
        if not done:
            self._task.cancel()
