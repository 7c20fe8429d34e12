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

DOOR = "run/steadytok/look.sock"
_STARTS = 8.0  # seconds for the first answer: systemd starts who gives it with the question
_PATIENCE = 0.5  # seconds for any other
_PAUSE = 10.0  # seconds until it is tried again, where there was none
_LONGEST = 4 << 20  # bytes of an answer


class Told(msgspec.Struct, frozen=True):
    """Two things of a process, both empty where it has ended; `error` is why they cannot be told."""

    variables: dict[str, str] = {}
    sockets: tuple[str, ...] = ()
    error: str = ""


class _Kept:
    """The connection, as long as it lasts, and why the last one ended."""

    def __init__(self) -> None:
        self.connection: socket.socket | None = None
        self.answers: BinaryIO | None = None
        self.fault = ""
        self.again = 0.0  # on the monotonic clock

    def ask(self, door: str, pid: int) -> Told:
        """Raises OSError where there is no answer, and msgspec's errors where it is none."""
        if self.connection is None:
            self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.connection.settimeout(_STARTS)
            self.connection.connect(door)
            self.answers = self.connection.makefile("rb")
        assert self.answers is not None  # made with the connection
        self.connection.sendall(b"%d\n" % pid)
        line = self.answers.readline(_LONGEST)
        if not line:
            raise ConnectionResetError("it has hung up")
        self.connection.settimeout(_PATIENCE)
        return msgspec.json.decode(line, type=Told)

    def hang_up(self, fault: str) -> None:
        """A late answer must not meet a later question."""
        for end in (self.answers, self.connection):
            if end is not None:
                end.close()
        self.connection = self.answers = None
        self.fault, self.again = fault, time.monotonic() + _PAUSE


def told(host: Host, pid: int) -> Told | None:
    """What is told of a process; None where its files are open to us, or there is nobody to ask."""
    if os.access(host.path(f"proc/{pid}/environ"), os.R_OK) or not host.exists(DOOR):
        return None
    kept = host.kept(_Kept)
    if time.monotonic() >= kept.again:
        try:
            found = kept.ask(host.path(DOOR), pid)
        except (OSError, msgspec.MsgspecError) as error:
            kept.hang_up(getattr(error, "strerror", None) or str(error))
        else:
            if found.error:
                host.note(f"process {pid}", found.error)
            return found
    host.note(DOOR, kept.fault)
    return Told()
