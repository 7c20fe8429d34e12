"""
An eye that systemd starts for each connection, with rights that the daemon has not.

Behaves as Child does. It ends when we hang up, and while its process lives so does its end of the connection, in
uninterruptible sleep too: it is not replaced before that end has closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import structlog

from agent.runtime.child_process import MAX_LINE, keep_alive, read_line

EYE_SOCKET = "/run/steadytok/eye.sock"


def eye_socket_path(root: str, path: str = EYE_SOCKET) -> str | None:
    """
    The socket at which an eye can be had, or None where the agent starts its own.

    Root sees everything by itself, and a picture of a machine needs no rights.
    """
    usable = os.path.abspath(root) == "/" and os.geteuid() != 0 and os.access(path, os.W_OK)
    return path if usable else None


class EyeConnection:
    """One connection, made again when it ends."""

    pid = None
    """Not known: the kernel names systemd, which listens, as whoever is at the other end."""

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
        """Which connection this is, counted; None while there is none."""
        return None if self._writer is None else self.start_count

    @property
    def is_started(self) -> bool:
        """Whether it is being kept alive."""
        return self._task is not None

    def start(self) -> None:
        """Connects, and connects again until `close`."""
        self._task = asyncio.get_running_loop().create_task(
            keep_alive(self._serve_connection, self._closing, self._log), name=f"door {self.name}"
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
            self._log.warning("the eye has hung up and will be called again")

    async def wait_until_alive(self, timeout: float) -> bool:
        """Waits until there is a connection; False where there is none after so many seconds."""
        with contextlib.suppress(TimeoutError):  # the answer says that it took too long
            await asyncio.wait_for(self._alive.wait(), timeout)
        return self._alive.is_set()

    def send(self, line: bytes) -> bool:
        """Writes a line to the eye; False where there is none to read it."""
        if self._writer is None or self._writer.is_closing():
            return False
        self._writer.write(line)
        return True

    def kill(self) -> None:
        """Hangs up: the eye ends, however long its reads take. Its own end closes once the kernel has let it go."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # it ended on its own meanwhile
                self._writer.write_eof()

    async def close(self) -> None:
        """Hangs up for good; an eye in uninterruptible sleep is left to systemd."""
        self._closing.set()
        self.kill()
        if self._task is None:
            return
        done, _pending = await asyncio.wait({self._task}, timeout=1.0)
        if not done:
            self._task.cancel()
