"""The door of the event loop to HTTP: its bounds hold for each answer, over connections that are used again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

from agent.runtime.http_client import MAX_HEAD_BYTES, HttpClient, decode_json
from collectors import HttpAnswerError
from tests import hostile_peers

LIMIT = 1000


def ask(peer: hostile_peers.Misbehave, work: Callable[[HttpClient, str], Awaitable[object]]) -> list[bytes]:
    """Runs `work` with a client and the URL of a peer; returns the beginnings of the peer's connections."""

    async def run(address: str) -> None:
        async with contextlib.aclosing(HttpClient(limit=LIMIT, timeout=30)) as client:
            await work(client, f"http://{address}/")

    with hostile_peers.serve(peer) as (address, requests):
        asyncio.run(run(address))
        return requests


def send(text: bytes) -> hostile_peers.Misbehave:
    """Returns a peer that answers once."""
    return lambda connection, _: connection.sendall(text)


def keep_answering(connection: socket.socket, _: threading.Event) -> None:
    """Answers every request of a connection with as many bytes as the limit allows."""
    while True:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LIMIT + b"a" * LIMIT)
        if not connection.recv(1 << 16):
            return


def test_bytes_are_counted_for_each_answer() -> None:
    """One connection serves any number of answers of the greatest length."""

    async def work(client: HttpClient, url: str) -> None:
        for _ in range(2 * MAX_HEAD_BYTES // LIMIT):
            assert (await client.exchange("GET", url)).body == b"a" * LIMIT

    assert len(ask(keep_answering, work)) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"a" * 1001, "longer than 1000 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nok",
            r"compressed \(br\), which was not",
        ),
        (b"SSH-2.0\r\n", "the answer is not HTTP: "),
        (b"", "the connection ended before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "not enough data"),
    ],
)
def test_an_answer_that_cannot_be_used_has_its_sentence(answer: bytes, words: str) -> None:
    """The sentence has no URL."""

    async def work(client: HttpClient, url: str) -> None:
        with pytest.raises(HttpAnswerError, match=f"(?i){words}") as raised:
            await client.exchange("GET", url)
        assert "127.0.0.1" not in str(raised.value)

    ask(send(answer), work)


def test_a_refusal_is_an_answer_of_bytes() -> None:
    """Of a refusal the beginning is read, whatever its length and encoding; a redirect is one, and leads nowhere."""

    async def read_redirect(client: HttpClient, url: str) -> None:
        answer = await client.exchange("POST", url, json={})
        assert (answer.status, answer.headers["location"], answer.text) == (307, "http://192.0.2.1/", "no")

    async def read_long(client: HttpClient, url: str) -> None:
        assert (await client.exchange("GET", url)).status == 500

    ask(send(b"HTTP/1.1 307 T\r\nLocation: http://192.0.2.1/\r\nContent-Length: 2\r\n\r\nno"), read_redirect)
    ask(hostile_peers.endless_error, read_long)
    ask(hostile_peers.gzip_bomb_as_error, read_long)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a":' * 100_000, b"[" * 100_000, b"1" * 10_000])
def test_json_that_is_none_is_a_value_error(body: bytes) -> None:
    """Callers name one error: depth is one of its reasons, and no RecursionError."""
    with pytest.raises(ValueError):
        decode_json(body, dict)
