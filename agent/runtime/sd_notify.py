"""
Notifies systemd of the daemon's state: ready, alive, stopping. Does nothing where NOTIFY_SOCKET is not set.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html: a datagram of KEY=VALUE lines to that socket.
No library is used: they are builds against libsystemd from source, or date from 2017.
"""

from __future__ import annotations

import contextlib
import os
import socket


class SystemdNotifier:
    """Sends the notifications; each tick feeds the watchdog, so that systemd restarts a loop that stands still."""

    def __init__(self, address: str | None) -> None:
        """`address` is NOTIFY_SOCKET: a path, or @NAME in the abstract namespace; None sends nothing."""
        self._address = None if not address else f"\0{address[1:]}" if address.startswith("@") else address
        self._is_ready = False
        self._status = ""

    @classmethod
    def from_environment(cls) -> SystemdNotifier:
        """Reads NOTIFY_SOCKET and removes it from the environment: children must not notify in the agent's name."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    def notify_tick(self, status: str) -> None:
        """Reports a complete tick; the first one makes the daemon ready. `status` is for `systemctl status`."""
        lines = ["WATCHDOG=1"]
        if not self._is_ready:
            lines.append("READY=1")
        if status != self._status:
            lines.append(f"STATUS={status}")
        if self._notify(*lines):  # otherwise the next tick sends them again
            self._is_ready, self._status = True, status

    def notify_stopping(self) -> None:
        """Reports that the daemon stops on request."""
        self._notify("STOPPING=1")

    def _notify(self, *lines: str) -> bool:
        if self._address is None:
            return True
        # Non-blocking: a busy systemd gets the next tick's notification.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto("\n".join(lines).encode(), self._address)
            return True
        return False
