"""Clients that hang up at every stage of a request: politely (FIN) and rudely (RST)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

THREADS = 4
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


def build_request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """Builds a request of HTTP/1.1 to localhost, after whose answer the server closes the connection."""
    length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n".encode() + body


def iter_stages(request: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields what a client sends before it hangs up, and how many bytes of the answer it reads before that."""
    head = request.index(b"\r\n\r\n") + 4
    for sent in (0, 1, head // 2, head - 2, head, (head + len(request)) // 2, len(request)):
        yield request[:sent], 0
    yield request, 1
    yield request, 1 << 16
    yield request * 3, 1


def hang_up_at_every_stage(port: int, requests: Sequence[bytes], context: ssl.SSLContext | None = None) -> None:
    """Hangs up at every stage of each request, with FIN and with RST; THREADS clients do so at the same time."""
    with ThreadPoolExecutor(THREADS) as pool:
        for request in requests * THREADS:
            for sent, awaited in iter_stages(request):
                for is_rude in (False, True):
                    pool.submit(_hang_up, port, sent, awaited, is_rude, context)


def flood(port: int, request: bytes, count: int) -> None:
    """Opens `count` connections that hold the beginning of a request, then hangs up on all of them."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with contextlib.suppress(OSError):  # refused: there are too many already
                client.sendall(request[: len(request) // 2])


def _hang_up(port: int, sent: bytes, awaited: int, is_rude: bool, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # OSError: refused, or cut off
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        if context is not None:
            client = stack.enter_context(context.wrap_socket(client, server_hostname="localhost"))
        client.sendall(sent)
        while awaited > 0 and (part := client.recv(awaited)):
            awaited -= len(part)
        if is_rude:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
