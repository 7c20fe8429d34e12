"""The limits of connections: sizes, times, and numbers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.web import access, listener
from tests.agent.web.served_site import (
    BEARER,
    FORM,
    JSON,
    OWN,
    READ,
    WRITE,
    ServedSite,
    configure_tls,
    run_test,
)


@pytest.mark.parametrize("path", [FORM, WRITE, READ, "/nothing"])
def test_a_gigabyte_is_refused_unread(tmp_path: Path, path: str) -> None:
    """A body with too large a length is refused by its header, before its first byte."""

    async def test(site: ServedSite) -> None:
        method = "GET" if path == READ else "POST"
        headers = {**JSON, **BEARER, "Content-Length": str(1 << 30)}
        assert (await site.ask(method, path, headers))[0] == 413

    run_test(tmp_path, test)


@pytest.mark.parametrize(("path", "bound"), [(FORM, access.MAX_FORM), (WRITE, access.MAX_BODY)])
def test_chunks_without_end_are_refused(tmp_path: Path, path: str, bound: int) -> None:
    """A body without a length is read up to its bound and no further."""

    async def test(site: ServedSite) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OWN}\r\n"
        head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(head.encode())
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 30 and not reader.at_eof():
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
                sent += 65536
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
        writer.close()

        assert answer.startswith(b"HTTP/1.1 413") or not answer  # a reset may overtake the answer
        assert sent < 64 << 20  # what the listener lets by, and the buffers of both sockets
        assert site.reached == []
        assert site.count_refused("size") == 1

    run_test(tmp_path, test)


def test_a_packed_body_is_refused(tmp_path: Path) -> None:
    """No body is decompressed: a few bytes could become a gigabyte."""

    async def test(site: ServedSite) -> None:
        headers = {**JSON, **BEARER, "Content-Encoding": "gzip"}
        assert (await site.ask("POST", WRITE, headers, b"\x1f\x8b"))[0] == 415

    run_test(tmp_path, test)


def test_a_head_that_comes_a_byte_at_a_time_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a whole head in time is closed, also for its second request."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.5)

    async def test(site: ServedSite) -> None:
        first = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for before in (b"", first):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(before)
            if before:
                assert b"is healthy" in await reader.readuntil(b"healthy.\n")
            with contextlib.suppress(ConnectionError):
                for byte in b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 2000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.02)
                    if reader.at_eof():
                        break
                else:
                    pytest.fail("it was never cut off")
            writer.close()

    run_test(tmp_path, test)


def test_a_body_that_comes_a_byte_at_a_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow body is refused, and the client reads the reason."""
    monkeypatch.setattr(access, "BODY_TIMEOUT", 0.3)

    async def test(site: ServedSite) -> None:
        status, _, body = await site.ask("POST", FORM, {"Content-Length": "100"}, b"q")

        assert status == 408
        assert b"did not come" in body

    run_test(tmp_path, test)


def test_who_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that requests much and reads nothing is cut off."""
    monkeypatch.setattr(listener, "ANSWER_TIMEOUT", 0.3)

    async def test(site: ServedSite) -> None:
        asking = socket.socket()
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(asking, ("127.0.0.1", site.port))
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
        await loop.sock_sendall(asking, request)
        assert site.access_control.listener is not None
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not site.access_control.listener.connections:
                break
        asking.close()

        assert site.access_control.listener.connections == 0

    run_test(tmp_path, test)


def test_slow_readers_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that wait for slow readers are bounded together: whoever has waited longest is cut off for a new one."""
    monkeypatch.setattr(listener, "MAX_UNSENT", 2 << 20)

    async def test(site: ServedSite) -> None:
        assert site.access_control.listener is not None
        guards = site.access_control.listener._guards
        request = f"GET {READ} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(24):
                client = stack.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", site.port))
                client.sendall(request * 100)  # 40 MB of answers, of which the kernel takes a few
                clients.append(client)
                while client is clients[-1] and not any(guard.unsent_bytes for guard in guards.values()):
                    await asyncio.sleep(0)
                assert sum(guard.unsent_bytes for guard in guards.values()) <= (2 << 20) + 400_000
            await asyncio.sleep(0)
            assert len(guards) < 24
        status, _, body = await site.ask("GET", READ)
        assert (status, len(body)) == (200, 400_000)

    run_test(tmp_path, test)


@pytest.mark.parametrize(
    ("request_head", "tls"),
    [
        (b"", False),
        (b"GET /metrics HTTP/1.1\r\nX: ", False),
        (b"POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nq", False),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30, False),
        (b"", True),
        (b"\x16\x03\x01", True),
    ],
)
def test_strangers_who_hold_every_place_keep_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_head: bytes, tls: bool
) -> None:
    """
    At the limit of connections, silent and slow clients are closed for new ones, the oldest first.

    Over TLS so are clients that never finish the handshake.
    """
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 8)
    config, context = configure_tls(tmp_path) if tls else (None, None)

    async def test(site: ServedSite) -> None:
        strangers = [await asyncio.open_connection("127.0.0.1", site.port, limit=1024) for _ in range(40)]
        for _, writer in strangers:
            with contextlib.suppress(ConnectionError):  # it has made room already
                writer.write(request_head)
        await asyncio.sleep(0.1)
        for _ in range(5):
            assert (await site.ask("GET", READ, context=context))[0] == 200
        assert site.access_control.listener is not None
        assert site.access_control.listener.connections <= 8
        assert site.access_control.listener.refused_connections >= 32
        for _, writer in strangers:
            writer.close()

    run_test(tmp_path, test, config=config)


def test_strangers_before_tls_make_room_before_whoever_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle client with a finished TLS handshake stays connected while older strangers are closed."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    config, context = configure_tls(tmp_path)

    async def test(site: ServedSite) -> None:
        strangers = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context)
        strangers += [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        writer.write(b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        for _, open_writer in [*strangers, (reader, writer)]:
            open_writer.close()

    run_test(tmp_path, test, config=config)


def test_no_descriptor_left_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed attempts to accept are logged once, and the waiting client is answered when descriptors are free again."""
    monkeypatch.setattr(listener, "ACCEPT_RETRY", 0.01)

    async def test(site: ServedSite) -> None:
        asking = socket.socket()
        asking.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with capture_logs() as lines, open(os.devnull) as lowest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))
            try:
                await asyncio.get_running_loop().sock_connect(asking, ("127.0.0.1", site.port))
                await asyncio.sleep(0.3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            reader, writer = await asyncio.open_connection(sock=asking)
            writer.write(b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()

        assert [line["reason"] for line in lines] == ["Too many open files"]

    run_test(tmp_path, test)


def test_localhost_is_all_its_addresses(tmp_path: Path) -> None:
    """A listener on a name answers at each of its addresses, with one port."""

    async def run() -> list[int]:
        site = ServedSite(tmp_path, listen="localhost:0")
        site.port = await site.server.start("localhost", 0)
        statuses = []
        for address in {info[4][0] for info in socket.getaddrinfo("localhost", site.port, type=socket.SOCK_STREAM)}:
            reader, writer = await asyncio.open_connection(address, site.port)
            writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            statuses.append(int((await reader.read()).split()[1]))
            writer.close()
        await site.server.close()
        return statuses

    assert set(asyncio.run(run())) == {200}
