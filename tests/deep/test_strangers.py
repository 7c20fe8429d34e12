"""A real agent among strangers: what they hold, send and try keeps no scrape out and brings nothing down."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests import processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]


class Box(NamedTuple):
    """An agent's port, and the secret that it keeps."""

    port: int
    token: str


@pytest.fixture(name="box", scope="module")
def _box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One agent for all of them; its log is looked at in the end."""
    home, port = tmp_path_factory.mktemp("box"), processes.find_free_port()
    document = {
        "engine": {"enabled": False},
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(home / "state")},
    }
    (home / "steadytok.yml").write_text(json.dumps(document))
    agent = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(home / "steadytok.yml")]
    with processes.run_process(agent, home / "log"):
        processes.wait_until(lambda: processes.fetch(f"http://127.0.0.1:{port}/-/ready") is not None, 30, "ready")
        yield Box(port, (home / "state" / "token").read_text().strip())
        assert processes.fetch(f"http://127.0.0.1:{port}/-/healthy") is not None
    assert "Traceback" not in (home / "log").read_text()


@pytest.fixture(name="many_files", autouse=True)
def _many_files() -> Iterator[None]:
    """As many sockets as the test wants, for the test alone."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(8192, before[1])), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def scrape(port: int) -> bool:
    return "steadytok_build_info" in (processes.fetch(f"http://127.0.0.1:{port}/metrics") or "")


@pytest.mark.parametrize("request_start", [b"", b"GET /metrics HTTP/1.1\r\nX: "])
def test_two_thousand_connections(box: Box, request_start: bytes) -> None:
    """Silent ones, and ones that send their head a byte at a time: every scrape comes through meanwhile."""
    connections = []
    with contextlib.ExitStack() as stack:
        for _ in range(2000):
            connection = stack.enter_context(socket.socket())
            connection.settimeout(5)
            connection.connect(("127.0.0.1", box.port))
            connection.sendall(request_start)
            connections.append(connection)
        for _ in range(10):
            assert scrape(box.port)
            for connection in connections if request_start else ():
                with contextlib.suppress(OSError):  # it has been cut off
                    connection.send(b"y")
            time.sleep(0.2)
    assert scrape(box.port)


ENDLESS = 1 << 16  # MiB: no machine passes 64 GiB through in the half second for which a refused body is thrown away


@pytest.mark.parametrize("length", [f"Content-Length: {ENDLESS << 20}", "Transfer-Encoding: chunked"])
def test_an_endless_body_is_cut_off(box: Box, length: str) -> None:
    """With a length and without: refused, hung up on after a moment, and the agent is no larger for it."""
    before = _resident(box.port)
    piece = b"x" * (1 << 20)
    answer = b""
    with socket.create_connection(("127.0.0.1", box.port), 10) as connection:
        connection.sendall(f"POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # it has been cut off
            for _ in range(ENDLESS):
                connection.sendall(b"100000\r\n" + piece + b"\r\n" if "chunked" in length else piece)
            pytest.fail("64 GiB were taken")
        with contextlib.suppress(OSError):  # the reset may overtake the answer
            answer = connection.recv(4096)

    assert answer[:12] in (b"", b"HTTP/1.1 413")
    assert scrape(box.port)
    assert _resident(box.port) - before < 32


def _resident(port: int) -> float:
    """MiB of the agent as it says itself."""
    text = processes.fetch(f"http://127.0.0.1:{port}/metrics") or ""
    (resident_bytes,) = re.findall(r'^steadytok_process_resident_bytes{process="agent"} (\S+)$', text, re.MULTILINE)
    return float(resident_bytes) / (1 << 20)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%2f..%2fserver.py",
        "/static/%2e%2e/server.py",
        "//etc/passwd",
        "/metrics/../token",
        "/openapi.yml/../door.py",
        "/\\..\\..\\etc\\passwd",
        "/metrics%00.txt",
        "/;/metrics",
        "/api/v1/label/%2e%2e%2ftoken/values",
        "/api/v1/label/__name__%0d%0aEvil:%20x/values",
        "/?x=%0d%0aSet-Cookie:%20evil=1",
    ],
)
def test_no_path_leaves_the_site(box: Box, path: str) -> None:
    """Nothing of the disk comes out, no header goes in, nothing is a fault."""
    with socket.create_connection(("127.0.0.1", box.port), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")

    assert int(head.split()[1]) in (200, 400, 404)
    assert b"root:" not in body and box.token.encode() not in body and b"import" not in body
    assert b"\r\nevil" not in head.lower() and b"set-cookie" not in head.lower()


CHANGES = ("remedies/pause", "remedies/resume", "remedies/try", "webhook/alertmanager")


@pytest.mark.parametrize("path", CHANGES)
def test_each_change_wants_its_credential(box: Box, path: str) -> None:
    """Without and with a wrong one it is a 401, whatever the body; with the right one the body is looked at."""
    url = f"http://127.0.0.1:{box.port}/api/v1/{path}"
    wrong = (None, "Bearer", f"Bearer {box.token[:-1]}", f"Basic {box.token}", box.token)

    assert {_status(url, credential, b"[]") for credential in wrong} == {401}
    assert _status(url, f"Bearer {box.token}", b"[]") == 400


def _status(url: str, credential: str | None, body: bytes) -> int:
    headers = {"Content-Type": "application/json", **({} if credential is None else {"Authorization": credential})}
    try:
        with processes.urllib.request.urlopen(
            processes.urllib.request.Request(url, body, headers), timeout=10
        ) as response:
            return int(response.status)
    except processes.urllib.error.HTTPError as error:
        return error.code
