"""Clients that leave, lie and repeat requests: the engine survives, and leaks nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.serving import client_places, server
from tests.engine.busy_connections import keep_connections_busy

Client = Any
GOOD = json.dumps({"prompt": "hello", "max_tokens": 3}).encode()
STREAM = json.dumps({"prompt": "hello", "max_tokens": 40, "stream": True}).encode()


def connect_raw(client: Client) -> socket.socket:
    """Opens a raw connection."""
    return socket.create_connection(("127.0.0.1", client.server.server_port), timeout=10)


def encode_post(body: bytes, length: int | None = None) -> bytes:
    """Returns a request as bytes."""
    size = len(body) if length is None else length
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body


def read_answer(client: Client) -> None:
    """Sends a good request and reads the response."""
    assert client.ask("POST", "/v1/completions", GOOD).status == 200


def send_malformed(client: Client) -> None:
    """Sends invalid JSON."""
    assert client.ask("POST", "/v1/completions", GOOD[:-1]).status == 400


def leave_before_the_body(client: Client) -> None:
    """Announces more bytes than it sends."""
    with connect_raw(client) as connection:
        connection.sendall(encode_post(GOOD, len(GOOD) + 10))


def leave_in_the_stream(client: Client) -> None:
    """Reads the beginning of a stream, and leaves."""
    with connect_raw(client) as connection:
        connection.sendall(encode_post(STREAM))
        connection.recv(100)


def reset_connection(client: Client) -> None:
    """Resets its connection."""
    with connect_raw(client) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(encode_post(STREAM))


def send_nothing(client: Client) -> None:
    """Connects and leaves without a request."""
    connect_raw(client).close()


CLIENTS: list[Callable[[Client], None]] = [
    read_answer,
    send_malformed,
    leave_before_the_body,
    leave_in_the_stream,
    reset_connection,
    send_nothing,
]


def read_resident() -> int:
    """Returns the resident bytes of this process, which runs the server."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_descriptors() -> int:
    """Returns the number of open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def run_every_client(client: Client, wait_until: Any) -> None:
    """Runs every client once, and waits until the server is idle."""
    for run_client in CLIENTS:
        with contextlib.suppress(ConnectionError):
            run_client(client)
    wait_until(lambda: client.server.served_model.scheduler.wait_until_idle(1) and client.server.wait_for_responses(1))


@pytest.mark.deep
def test_nothing_leaks(client: Client, wait_until: Any) -> None:
    """1,000 requests, most of them cut or wrong, leave no additional threads, sockets or memory."""
    for _ in range(30):
        run_every_client(client, wait_until)
    threads, descriptors, before = threading.active_count(), count_descriptors(), read_resident()
    for _ in range(1000 // len(CLIENTS) + 1):
        run_every_client(client, wait_until)
    wait_until(lambda: threading.active_count() <= threads and count_descriptors() <= descriptors)

    assert read_resident() - before < 4 << 20
    assert client.read_metric("requests_running") == client.read_metric("requests_waiting") == 0
    assert client.read_metric("kv_cache_usage_ratio") == 0
    read_answer(client)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_ten_megabytes_are_refused(client: Client, path: str) -> None:
    """A prompt of 10 MB is a 413 with the limit, and the engine survives."""
    body = json.dumps({"prompt": "a" * (10 << 20)}).encode()
    answer = client.ask("POST", path, body)

    assert answer.status == 413
    assert "bytes: at most 1048576 are taken" in answer.json()["error"]["message"]
    read_answer(client)


def test_a_long_context_takes_long_bodies(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a body grows with the context, so that any prompt that fits the context can be sent."""
    monkeypatch.setattr(server, "BYTES_PER_TOKEN", 1 << 14)  # as if the context of 128 tokens were long
    answer = client.complete(prompt="a" * (1 << 20) + "a" * 100, max_tokens=1)

    assert answer.status == 400
    assert "The prompt has 1048677 tokens" in answer.json()["error"]["message"]


def test_connections_are_bounded(client: Client, wait_until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine works for every connection, one too many gets a 503 and is closed."""
    monkeypatch.setattr(client.server, "max_connections", 3)
    with keep_connections_busy(client.server, 3, wait_until), connect_raw(client) as one_more:
        answer = one_more.recv(1000)
    wait_until(lambda: client.server.connections == 0)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Too many connections" in answer
    read_answer(client)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /v1/comp",
        b"POST /v1/completions HTTP/1.1\r\nX: ",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    ],
)
def test_clients_that_dawdle_keep_nobody_out(client: Client, wait_until: Any, beginning: bytes) -> None:
    """Where every place is held by a client that has not sent its request, the oldest one makes room for the next."""
    client.server.max_connections = 4
    dawdlers = [connect_raw(client) for _ in range(4)]
    for dawdler in dawdlers:
        dawdler.sendall(beginning)
    wait_until(lambda: client.server.connections == 4)
    for _ in range(6):
        read_answer(client)
        assert client.ask("GET", "/metrics").status == 200

    assert dawdlers[0].recv(1) == b""
    for dawdler in dawdlers:
        dawdler.close()
    wait_until(lambda: client.server.connections == 0)


def test_a_reader_who_takes_nothing_keeps_nobody_out(
    client: Client, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not take its answer loses its place, too."""
    monkeypatch.setattr(client_places, "SLOW_TAKER_SECONDS", 0.0)
    monkeypatch.setattr(client.server, "max_connections", 1)
    with connect_raw(client) as dawdler:
        dawdler.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
        )  # answers of some 100 MB, and none is read
        wait_until(lambda: any(place.is_taking and place.waits_since for place in client.server.places))
        wait_until(lambda: client.ask("GET", "/metrics").status == 200)


@pytest.mark.parametrize(
    ("limit", "beginning", "drip"),
    [
        ("HEAD_TIMEOUT", b"GET /metrics HTTP/1.1\r\nX: ", b"a"),
        ("BODY_TIMEOUT", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", b" "),
    ],
)
def test_a_request_has_one_deadline(
    client: Client, monkeypatch: pytest.MonkeyPatch, limit: str, beginning: bytes, drip: bytes
) -> None:
    """A client that never pauses, and never comes to the end of its request, is cut off."""
    monkeypatch.setattr(client_places, limit, 0.2)
    with connect_raw(client) as connection, pytest.raises(ConnectionError):
        connection.sendall(beginning)
        while True:
            connection.sendall(drip)
            threading.Event().wait(0.01)


def test_a_slow_reader_holds_no_slot(client: Client, wait_until: Any) -> None:
    """The tokens of a client that does not read its stream are generated anyway, and others are served."""
    with connect_raw(client) as connection:
        connection.sendall(encode_post(json.dumps({"prompt": "a", "max_tokens": 100, "stream": True}).encode()))
        wait_until(lambda: client.read_metric("generated_tokens_total") == 100)

        assert client.read_metric("requests_running") == 0
        read_answer(client)


def test_stream_over_old_http_ends_with_its_connection(client: Client) -> None:
    """A client of HTTP/1.0 gets events without chunks, and the end of the connection after [DONE]."""
    with connect_raw(client) as connection:
        connection.sendall(encode_post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"Transfer-Encoding" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


def test_connection_is_kept_after_a_stream(client: Client) -> None:
    """A connection stays open after a stream."""
    connection = client.connect()
    for _ in range(2):
        connection.request("POST", "/v1/completions", STREAM)
        answer = connection.getresponse()

        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert connection.sock is not None

    connection.close()


def test_a_cut_stream_can_be_told_from_a_whole_one(slow_client: Client, wait_until: Any) -> None:
    """If the engine stops in the middle, the last chunk is missing, and the client's library raises an error."""
    connection = slow_client.connect()
    connection.request("POST", "/v1/completions", b'{"prompt": "a", "max_tokens": 100, "stream": true}')
    answer = connection.getresponse()
    wait_until(lambda: slow_client.read_metric("generated_tokens_total") >= 3)
    slow_client.server.served_model.scheduler.stop(10)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_is_told(client: Client, stream: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault in the engine is a 500 with a sentence, or an error in the stream, and the next request works."""
    scheduler = client.server.served_model.scheduler
    decode, passes = scheduler.model.decode, []

    def fail_once(*arguments: Any) -> Any:
        passes.append(1)
        if len(passes) == (3 if stream else 1):
            raise MemoryError("no more")
        return decode(*arguments)

    scheduler.model.decode = fail_once
    answer = client.complete(prompt="a", max_tokens=9, stream=stream) if not stream else None
    if stream:
        connection = client.connect()
        connection.request("POST", "/v1/completions", STREAM)
        with pytest.raises(http.client.IncompleteRead) as cut:
            connection.getresponse().read()
        connection.close()

        assert b'"error": {"message": "The engine could not generate this answer: MemoryError' in cut.value.partial
    else:
        assert answer.status == 500
        assert "MemoryError in the engine" in answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "server_error"

    read_answer(client)

    assert "MemoryError: no more" in capsys.readouterr().err
