"""
Reads facts of a process that only its own user may read: its sockets, and its environment's placement variables.

Where systemd runs the eye, it may not read another user's /proc/PID/environ and /proc/PID/fd. `hand.look` behind a
socket then returns the two facts needed. All other readers open the files themselves, or lack the right to.
"""

from __future__ import annotations

import os
import socket
import time
from typing import BinaryIO

import msgspec

from collectors._host.host import Host

SOCKET_PATH = "run/steadytok/look.sock"
_START_TIMEOUT = 8.0  # seconds for the first answer: the request makes systemd start the service
_ANSWER_TIMEOUT = 0.5  # seconds for any other
_RETRY_DELAY = 10.0  # seconds until the next try after a failed connection
_MAX_ANSWER = 4 << 20  # bytes of an answer


class PrivateInfo(msgspec.Struct, frozen=True):
    """Sockets and placement variables of a process, both empty where it has ended; `error` is why they are unknown."""

    variables: dict[str, str] = {}
    sockets: tuple[str, ...] = ()
    error: str = ""


class _Connection:
    """The connection to `hand.look`, and the error that ended the last one."""

    def __init__(self) -> None:
        self.client: socket.socket | None = None
        self.reader: BinaryIO | None = None
        self.error = ""
        self.retry_at = 0.0  # on the monotonic clock

    def ask(self, path: str, pid: int) -> PrivateInfo:
        """Raises OSError where there is no answer, and msgspec's errors where the answer is malformed."""
        if self.client is None:
            self.client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.client.settimeout(_START_TIMEOUT)
            self.client.connect(path)
            self.reader = self.client.makefile("rb")
        assert self.reader is not None  # created together with the connection
        self.client.sendall(b"%d\n" % pid)
        line = self.reader.readline(_MAX_ANSWER)
        if not line:
            raise ConnectionResetError("connection closed by the service")
        self.client.settimeout(_ANSWER_TIMEOUT)
        return msgspec.json.decode(line, type=PrivateInfo)

    def close(self, error: str) -> None:
        """Closes the connection, so that a late answer cannot meet a later request."""
        for stream in (self.reader, self.client):
            if stream is not None:
                stream.close()
        self.client = self.reader = None
        self.error, self.retry_at = error, time.monotonic() + _RETRY_DELAY


def read_private_info(host: Host, pid: int) -> PrivateInfo | None:
    """Returns the facts of a process; None where its files are readable here, or there is no service."""
    if os.access(host.path(f"proc/{pid}/environ"), os.R_OK) or not host.exists(SOCKET_PATH):
        return None
    connection = host.get_state(_Connection)
    if time.monotonic() >= connection.retry_at:
        try:
            info = connection.ask(host.path(SOCKET_PATH), pid)
        except (OSError, msgspec.MsgspecError) as error:
            connection.close(getattr(error, "strerror", None) or str(error))
        else:
            if info.error:
                host.note(f"process {pid}", info.error)
            return info
    host.note(SOCKET_PATH, connection.error)
    return PrivateInfo()
