"""
The door to what only a process's own user may read of it: its sockets, and what its environment asks of placement.

Where systemd runs the eye, another user's /proc/PID/environ and /proc/PID/fd are closed to it, and `hand.look` behind a
socket tells the two things that are needed of them. Everybody else reads the files, or has not the right to.
"""

from __future__ import annotations

import os
import socket
import time
from typing import BinaryIO

import msgspec

from collectors._host.host import Host

SOCKET_PATH = "run/steadytok/look.sock"
_START_TIMEOUT = 8.0  # seconds for the first answer: systemd starts who gives it with the question
_ANSWER_TIMEOUT = 0.5  # seconds for any other
_RETRY_DELAY = 10.0  # seconds until it is tried again, where there was none
_MAX_ANSWER = 4 << 20  # bytes of an answer


class PrivateInfo(msgspec.Struct, frozen=True):
    """Two things of a process, both empty where it has ended; `error` is why they cannot be told."""

    variables: dict[str, str] = {}
    sockets: tuple[str, ...] = ()
    error: str = ""


class _Connection:
    """The connection, as long as it lasts, and why the last one ended."""

    def __init__(self) -> None:
        self.client: socket.socket | None = None
        self.reader: BinaryIO | None = None
        self.error = ""
        self.retry_at = 0.0  # on the monotonic clock

    def ask(self, path: str, pid: int) -> PrivateInfo:
        """Raises OSError where there is no answer, and msgspec's errors where it is none."""
        if self.client is None:
            self.client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.client.settimeout(_START_TIMEOUT)
            self.client.connect(path)
            self.reader = self.client.makefile("rb")
        assert self.reader is not None  # made with the connection
        self.client.sendall(b"%d\n" % pid)
        line = self.reader.readline(_MAX_ANSWER)
        if not line:
            raise ConnectionResetError("it has hung up")
        self.client.settimeout(_ANSWER_TIMEOUT)
        return msgspec.json.decode(line, type=PrivateInfo)

    def close(self, error: str) -> None:
        """A late answer must not meet a later question."""
        for stream in (self.reader, self.client):
            if stream is not None:
                stream.close()
        self.client = self.reader = None
        self.error, self.retry_at = error, time.monotonic() + _RETRY_DELAY


def read_private_info(host: Host, pid: int) -> PrivateInfo | None:
    """What is told of a process; None where its files are open to us, or there is nobody to ask."""
    if os.access(host.path(f"proc/{pid}/environ"), os.R_OK) or not host.exists(SOCKET_PATH):
        return None
    connection = host.kept(_Connection)
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
