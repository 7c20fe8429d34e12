"""
What systemd is told of the daemon: ready, alive, ending. Nothing where systemd does not ask.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html: a datagram of KEY=VALUE lines to the socket in
NOTIFY_SOCKET. Written here, since the libraries for it are a source build against libsystemd or of 2017.
"""

from __future__ import annotations

import contextlib
import os
import socket


class SystemdNotifier:
    """The line to systemd; each tick feeds the watchdog, so that a loop that stands still is restarted."""

    def __init__(self, address: str | None) -> None:
        """`address` is NOTIFY_SOCKET: a path, or @NAME in the abstract namespace; None where nobody listens."""
        self._address = None if not address else f"\0{address[1:]}" if address.startswith("@") else address
        self._is_ready = False
        self._status = ""

    @classmethod
    def from_environment(cls) -> SystemdNotifier:
        """As systemd started us; children must not speak for us, so the address is taken out of the environment."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    def notify_tick(self, status: str) -> None:
        """A tick has ended well: with the first one the daemon is ready. `status` is for `systemctl status`."""
        lines = ["WATCHDOG=1"]
        if not self._is_ready:
            lines.append("READY=1")
        if status != self._status:
            lines.append(f"STATUS={status}")
        if self._notify(*lines):  # else what it did not hear is told again with the next tick
            self._is_ready, self._status = True, status

    def notify_stopping(self) -> None:
        """The daemon ends because it was told to."""
        self._notify("STOPPING=1")

    def _notify(self, *lines: str) -> bool:
        if self._address is None:
            return True
        # Never waited for: a systemd that is busy hears the next tick.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto("\n".join(lines).encode(), self._address)
            return True
        return False
