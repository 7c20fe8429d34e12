"""
The socket: who may connect, one line per request, bounds on everything that comes in.

A thread per connection, few connections, no half-sent line waited for longer than a moment.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

from hand import peer
from hand.config import Config
from hand.errors import HandError, InvalidError, LimitedError
from hand.service import Say, Service

LONGEST_LINE = 4096  # bytes of a request
MOST_CONNECTIONS = 8
HALF_SENT = 5.0  # seconds that a line may take from its first byte to its last
IDLE = 300.0  # seconds between two requests


def listening(path: Path) -> socket.socket:
    """A socket of our own at that path, for its owner's group too; OSError where it cannot be had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    path.chmod(0o660)
    door.listen(MOST_CONNECTIONS)
    return door


def inherited() -> socket.socket | None:
    """
    The socket that systemd listens on for us; None where it did not start us that way.

    https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=3)


class Server:
    """Answers callers until `close`."""

    def __init__(self, door: socket.socket, config: Config, service: Service, say: Say) -> None:
        self._door = door
        self._config = config
        self._service = service
        self._say = say
        self._free = threading.Semaphore(MOST_CONNECTIONS)

    def serve(self) -> None:
        """Takes callers, each in a thread; returns when the socket is closed."""
        while True:
            try:
                connection, _ = self._door.accept()
            except OSError:
                return  # closed: this hand ends
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._greet, args=(connection,), daemon=True).start()
            else:
                with connection:
                    _send(connection, _refusal(LimitedError(f"{MOST_CONNECTIONS} callers are served already")))

    def close(self) -> None:
        """No caller is taken any more."""
        self._door.close()

    def _greet(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._converse(connection)
        except OSError:
            return  # the caller has gone
        finally:
            self._free.release()

    def _converse(self, connection: socket.socket) -> None:
        try:
            caller = peer.peer_of(connection)
            peer.check(caller, self._config)
        except HandError as error:
            self._say(f"turned away: {error}")
            _send(connection, _refusal(error))
            return
        lines = Lines(connection)
        while True:
            try:
                line = lines.next()
            except InvalidError as error:
                _send(connection, _refusal(error))
                return
            if line is None:
                return
            _send(connection, self._service.answer(line, f"process {caller.pid}"))


class Lines:
    """The lines of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._held = b""

    def next(self) -> bytes | None:
        """The next line without its end; None at the end of all. InvalidError where it is too long or half-sent."""
        until = time.monotonic() + (HALF_SENT if self._held else IDLE)
        while b"\n" not in self._held:
            if len(self._held) > LONGEST_LINE:
                break
            self._connection.settimeout(max(0.001, until - time.monotonic()))
            try:
                part = self._connection.recv(LONGEST_LINE)
            except TimeoutError:
                if not self._held:
                    return None
                raise InvalidError(f"half a line was sent, and its end did not come within {HALF_SENT:g} s") from None
            if not part:
                return None
            if not self._held:
                until = time.monotonic() + HALF_SENT
            self._held += part
        line, _, self._held = self._held.partition(b"\n")
        if len(line) > LONGEST_LINE:
            raise InvalidError(f"a line has more than {LONGEST_LINE} bytes")
        return line


def _refusal(error: HandError) -> dict[str, object]:
    return {"ok": False, "code": error.code, "error": str(error)}


def _send(connection: socket.socket, answer: dict[str, object]) -> None:
    connection.settimeout(HALF_SENT)
    connection.sendall(json.dumps(answer).encode() + b"\n")
