"""Peers on loopback that answer HTTP wrongly, too long, too slowly or never, for every client of ours."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping

MEBIBYTE = b"a" * (1 << 20)
Misbehave = Callable[[socket.socket, threading.Event], None]


def _send_head(connection: socket.socket, status: str, *fields: str) -> None:
    connection.sendall("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode())


def _send_endlessly(connection: socket.socket, part: bytes) -> None:
    while True:
        connection.sendall(part)


def endless_error(connection: socket.socket, _: threading.Event) -> None:
    """A 500 whose body has no end."""
    _send_head(connection, "500 Oops", "Content-Type: text/plain")
    _send_endlessly(connection, MEBIBYTE)


def endless_answer(connection: socket.socket, _: threading.Event) -> None:
    """A 200 whose body has no end."""
    _send_head(connection, "200 OK", "Content-Type: text/plain")
    _send_endlessly(connection, MEBIBYTE)


def endless_chunks(connection: socket.socket, _: threading.Event) -> None:
    """A chunked body without end, of one byte a chunk."""
    _send_head(connection, "200 OK", "Transfer-Encoding: chunked")
    _send_endlessly(connection, b"1\r\na\r\n" * 10_000)


@functools.cache
def compress_zeros() -> bytes:
    """Returns some 1 MB of gzip that unpack to 256 MiB; they are never all in memory."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([*(compressor.compress(bytes(1 << 20)) for _ in range(256)), compressor.flush()])


def _bomb(connection: socket.socket, status: str) -> None:
    body = compress_zeros()
    _send_head(connection, status, "Content-Encoding: gzip", f"Content-Length: {len(body)}")
    connection.sendall(body)


def gzip_bomb(connection: socket.socket, _: threading.Event) -> None:
    """Few bytes that unpack to very many."""
    _bomb(connection, "200 OK")


def gzip_bomb_as_error(connection: socket.socket, _: threading.Event) -> None:
    """The same as a refusal."""
    _bomb(connection, "500 Oops")


def endless_heads(connection: socket.socket, _: threading.Event) -> None:
    """Header lines without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    _send_endlessly(connection, b"X-Header: " + b"a" * 4000 + b"\r\n")


def one_endless_line(connection: socket.socket, _: threading.Event) -> None:
    """One header line without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    _send_endlessly(connection, MEBIBYTE)


def endless_interim_answers(connection: socket.socket, _: threading.Event) -> None:
    """100 Continue, for ever."""
    _send_endlessly(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def drip(connection: socket.socket, ended: threading.Event) -> None:
    """A byte now and then, so that no pause is ever long."""
    _send_head(connection, "200 OK", "Content-Length: 1000000")
    while not ended.wait(0.02):
        connection.sendall(b"a")


def silence(_: socket.socket, ended: threading.Event) -> None:
    """No byte at all."""
    ended.wait()


def redirect(connection: socket.socket, _: threading.Event) -> None:
    """To another host, which is nobody's."""
    _send_head(connection, "307 Temporary Redirect", "Location: https://192.0.2.1/steal", "Content-Length: 0")


def redirect_in_a_circle(connection: socket.socket, _: threading.Event) -> None:
    """To itself."""
    _send_head(connection, "307 Temporary Redirect", "Location: /again", "Content-Length: 0")


def odd_charset(connection: socket.socket, _: threading.Event) -> None:
    """A charset that Python has and no text has."""
    body = b"\xff\xfe\x00"
    _send_head(connection, "500 X", "Content-Type: text/plain; charset=idna", f"Content-Length: {len(body)}")
    connection.sendall(body)


def reset(connection: socket.socket, _: threading.Event) -> None:
    """A reset in place of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def broken_off(connection: socket.socket, _: threading.Event) -> None:
    """The end in the middle of a body."""
    _send_head(connection, "200 OK", "Content-Length: 1000")
    connection.sendall(b"{}")


def no_http(connection: socket.socket, _: threading.Event) -> None:
    """The greeting of another protocol."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\x00\xff\r\n\r\n")


def deep_nesting(connection: socket.socket, _: threading.Event) -> None:
    """JSON that no parser can follow, as an answer."""
    body = b'{"x":' * 100_000
    _send_head(connection, "200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}")
    connection.sendall(body)


def deep_nesting_as_error(connection: socket.socket, _: threading.Event) -> None:
    """The same as a refusal."""
    body = b'{"error":' * 5_000
    _send_head(connection, "400 Bad Request", "Content-Type: application/json", f"Content-Length: {len(body)}")
    connection.sendall(body)


PEERS: Mapping[str, Misbehave] = {
    peer.__name__: peer
    for peer in (
        *(endless_error, endless_answer, endless_chunks, gzip_bomb, gzip_bomb_as_error, endless_heads),
        *(one_endless_line, endless_interim_answers, drip, silence, redirect, redirect_in_a_circle, odd_charset),
        *(reset, broken_off, no_http, deep_nesting, deep_nesting_as_error),
    )
}


@contextlib.contextmanager
def serve(misbehave: Misbehave) -> Iterator[tuple[str, list[bytes]]]:
    """Serves until the block ends, and its threads with it; yields HOST:PORT, and the beginning of each request."""
    ended, requests = threading.Event(), list[bytes]()
    connections, threads = list[socket.socket](), list[threading.Thread]()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client has had enough
            connection.settimeout(120)
            requests.append(connection.recv(1 << 16))
            misbehave(connection, ended)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # the block has ended
            connections.append(connection)
            threads.append(threading.Thread(target=answer, args=(connection,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}", requests
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join(60)
            for connection in connections:
                with contextlib.suppress(OSError):  # it is closed already
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(60)
