"""Connections that the engine is at work for, until the block ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from engine.serving.http_connection import HttpConnection, HttpListener

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def keep_connections_busy(listener: HttpListener, count: int, wait_until: Callable[..., None]) -> Iterator[None]:
    """
    Sends a request over each of `count` connections; none is answered before the block ends.

    The requests are real: a turn that a test ended by hand began anew as soon as the connection's thread had started.
    """
    is_over = threading.Event()

    def respond(self: HttpConnection, path: str, body: bytes) -> None:
        is_over.wait()
        self.close_connection = True

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as clients:
        patch.setattr(listener.RequestHandlerClass, "respond", respond)
        clients.callback(is_over.set)
        for _ in range(count):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", listener.server_port), timeout=20))
            client.sendall(REQUEST)
        wait_until(lambda: [place.waits_since for place in listener.places] == [None] * count)
        yield
