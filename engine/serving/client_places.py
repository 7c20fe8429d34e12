"""
The places of a listener's connections, and how long a client may take for its part.

A limit of each pause is no deadline: 300 clients that sent a byte a second held every place, and shut /metrics and PUT
/pace out for minutes. So a request has one deadline for its head and one for its body. Where all places are taken, the
client that has let the engine wait longest loses its place to the next.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

IDLE_TIMEOUT = 30.0  # seconds between requests, and in which a client must take a part of its answer
HEAD_TIMEOUT = 10.0  # seconds from a request's first byte to the end of its head
BODY_TIMEOUT = 30.0  # seconds from there to the end of its body
SLOW_TAKER_SECONDS = 1.0  # of waiting for a client that does not take its answer, before its place may be given away


class ClientPlace:
    """The place of one connection; `waits_since` is when its client's turn began, None in the engine's turn."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.waits_since: float | None = time.monotonic()
        self.is_taking = False

    def is_dawdling(self, now: float) -> bool:
        """Returns True while the client must send its request, or has not taken its answer for a while."""
        grace = SLOW_TAKER_SECONDS if self.is_taking else 0.0
        return self.waits_since is not None and now - self.waits_since >= grace

    def begin_turn(self, *, is_taking: bool) -> None:
        """Begins the client's turn: to send its request, or to take its answer."""
        self.waits_since, self.is_taking = time.monotonic(), is_taking

    def end_turn(self) -> None:
        """Ends the client's turn: the engine's begins."""
        self.waits_since = None


class ClientPlaces:
    """All places of one listener."""

    def __init__(self) -> None:
        self._places: dict[socket.socket, ClientPlace] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[ClientPlace]:
        """Iterates over the places that are taken now."""
        return iter(list(self._places.values()))

    def take(self, connection: socket.socket, limit: int) -> bool:
        """Takes a place, if need be that of the client that dawdles longest; returns False if all are at work."""
        with self._lock:
            if len(self._places) >= limit:
                now = time.monotonic()
                dawdling = [place for place in self._places.values() if place.is_dawdling(now)]
                if not dawdling:
                    return False
                slowest = min(dawdling, key=lambda place: place.waits_since or now)
                del self._places[slowest.connection]
                with contextlib.suppress(OSError):  # it has closed by itself
                    slowest.connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
            self._places[connection] = ClientPlace(connection)
            return True

    def find(self, connection: socket.socket) -> ClientPlace:
        """Returns the connection's place; one of its own where it has just been given away."""
        return self._places.get(connection) or ClientPlace(connection)

    def release(self, connection: socket.socket) -> None:
        """Releases the connection's place, unless it has been given away."""
        with self._lock:
            self._places.pop(connection, None)


class RequestReader(io.RawIOBase):
    """Reads requests from a connection; raises TimeoutError once a head or body has taken too long as a whole."""

    def __init__(self, place: ClientPlace) -> None:
        self._place = place
        self._deadline = 0.0
        self._is_idle = True

    def readable(self) -> bool:
        return True

    def begin_request(self) -> None:
        """Waits for a request from now on."""
        self._place.begin_turn(is_taking=False)
        self._is_idle, self._deadline = True, time.monotonic() + IDLE_TIMEOUT

    def begin_body(self) -> None:
        """Reads the body from now on."""
        self._is_idle, self._deadline = False, time.monotonic() + BODY_TIMEOUT

    def end_request(self) -> None:
        """Ends the client's turn; each part of the answer has IDLE_TIMEOUT from now on."""
        self._place.end_turn()
        self._place.connection.settimeout(IDLE_TIMEOUT)

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the request has taken too long")
        self._place.connection.settimeout(seconds)
        count = self._place.connection.recv_into(buffer)
        if self._is_idle:
            self._is_idle, self._deadline = False, time.monotonic() + HEAD_TIMEOUT
        return count


class AnswerWriter(io.BufferedIOBase):
    """Writes answers to a connection; the time of each write is the client's turn."""

    def __init__(self, place: ClientPlace) -> None:
        self._place = place

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._place.begin_turn(is_taking=True)
        try:
            self._place.connection.sendall(data)
        finally:
            self._place.end_turn()
        return len(data)
