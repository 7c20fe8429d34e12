"""A TCP connection with one deadline for all of its operations, and a limit of the bytes that arrive."""

from __future__ import annotations

import io
import socket
import time
from typing import Any

MAX_HEAD_BYTES = 256 << 10  # of heads, interim answers and the frames of chunks, beside the body
_CHUNK = 1 << 16


class HttpAnswerError(OSError):
    """No whole answer that can be used; the message is a sentence without the URL."""


class ExchangeBudget:
    """What is left of one exchange: seconds, and bytes on the wire."""

    def __init__(self, deadline: float, limit: int) -> None:
        self.limit = limit
        self._deadline = deadline
        self._bytes = limit + MAX_HEAD_BYTES

    def get_seconds(self) -> float:
        """Returns the seconds left; raises TimeoutError after the deadline."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds

    def spend(self, count: int) -> int:
        """Counts bytes that arrived; raises HttpAnswerError where they are too many."""
        self._bytes -= count
        if self._bytes < 0:
            raise HttpAnswerError(f"the answer is longer than {self.limit} bytes")
        return count


class BudgetedSocket:
    """A socket as http.client uses it, whose every operation has the budget's seconds at most."""

    def __init__(self, connection: socket.socket, budget: ExchangeBudget) -> None:
        self._connection = connection
        self._budget = budget

    def sendall(self, data: bytes) -> None:
        self._connection.settimeout(self._budget.get_seconds())
        self._connection.sendall(data)

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(_BudgetedReader(self._connection, self._budget), _CHUNK)

    def close(self) -> None:
        """Does nothing: http.client closes before the body is read; who opened the socket closes it."""


class _BudgetedReader(io.RawIOBase):
    def __init__(self, connection: socket.socket, budget: ExchangeBudget) -> None:
        self._connection = connection
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._budget.get_seconds())
        return self._budget.spend(self._connection.recv_into(buffer))


def connect_within(budget: ExchangeBudget, host: str, port: int) -> socket.socket:
    """Connects to the first address of the name that answers. Raises OSError."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(budget.get_seconds())
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure
