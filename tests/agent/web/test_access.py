"""The door, asked over sockets by friends and by strangers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from agent.config.loader import ConfigError
from agent.config.schema import ClientCertificate
from agent.web import access, listener, webconfig
from agent.web.access import CREDENTIAL, AccessControl, build_access_policy
from agent.web.credentials import Credentials
from agent.web.server import WebServer
from tests import certificates

OWN = "own-token-of-the-state-folder"
ALICE = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(4)).decode()
FORM, WRITE, READ = "/api/v1/query", "/api/v1/remedies/pause", "/metrics"


class Place:
    """A server behind a door, and what its routes saw."""

    def __init__(self, folder: Path, **told: Any) -> None:
        self.folder = folder
        self.reached: list[str | None] = []
        self.registry = CollectorRegistry()
        listen = told.pop("listen", "127.0.0.1:0")
        tokens = told.pop("tokens", {})
        path = told.pop("config", None)
        rules = build_access_policy(
            listen,
            told.pop("hosts", ()),
            told.pop("external_url", None),
            requires_credential=told.pop("closed", False),
            form_paths=[FORM],
        )
        self.door = AccessControl(rules, Credentials(OWN, tokens), path, self.registry)
        routes = [web.post(FORM, self._reach), web.post(WRITE, self._reach), web.get("/broken", self._break)]
        self.server = WebServer(
            metrics=lambda: "x 1\n" * 100_000,
            since_tick=lambda: 0.0,
            interval=1.0,
            routes=routes,
            access_control=self.door,
        )
        self.port = 0

    async def _reach(self, request: web.Request) -> web.Response:
        self.reached.append(request.get(CREDENTIAL))
        return web.Response(text=(await request.text())[:10])

    async def _break(self, request: web.Request) -> web.Response:
        raise RuntimeError("secret-in-an-exception")

    def refused(self, reason: str) -> float:
        return self.registry.get_sample_value("steadytok_http_refused_total", {"reason": reason}) or 0.0

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"", **how: Any
    ) -> tuple[int, dict[str, str], bytes]:
        told = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body or method == "POST":
            told.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items() if value)]
        return await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body, **how)

    async def raw(self, request: bytes, context: ssl.SSLContext | None = None) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in rest)
        return int(first.split()[1]) if first else 0, {name.lower(): value for name, _, value in pairs}, body


@contextlib.asynccontextmanager
async def place(folder: Path, **told: Any) -> AsyncIterator[Place]:
    here = Place(folder, **told)
    here.port = await here.server.start("127.0.0.1", 0)
    try:
        yield here
    finally:
        await here.server.close()


Test = Callable[[Place], Awaitable[None]]


def within(folder: Path, test: Test, **told: Any) -> None:
    async def run() -> None:
        async with place(folder, **told) as here:
            await test(here)

    asyncio.run(run())


def users(folder: Path, more: str = "") -> str:
    path = folder / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: '{ALICE}'}}\n{more}")
    return str(path)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def over_tls(folder: Path, more: str = "") -> tuple[str, ssl.SSLContext]:
    """A web configuration with a server's certificate, and how a client asks that trusts its authority."""
    authority = certificates.authority(folder)
    certificates.signed(folder, "server")
    path = folder / "web.yml"
    path.write_text(f"tls_server_config: {{cert_file: server.crt, key_file: server.key}}\n{more}")
    return str(path), ssl.create_default_context(cafile=str(authority))


BEARER = {"Authorization": f"Bearer {OWN}"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {OWN}x"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Bearer\t{OWN}"}, 401),
        ({"Authorization": f"Basic {OWN}"}, 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Bearer " + "x" * 5000}, 401),
        ({"Cookie": f"token={OWN}"}, 401),
        (BEARER, 200),
        ({"Authorization": f"bearer {OWN}"}, 200),
    ],
)
def test_what_changes_something_needs_a_credential(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """On loopback too; without it or with a wrong one nothing is reached, and the answer says how to ask."""

    async def test(here: Place) -> None:
        found, told, body = await here.ask("POST", WRITE, {**JSON, **headers}, b"{}")

        assert found == status
        assert here.reached == (["the state folder's token"] if status == 200 else [])
        if status == 401:
            assert told["www-authenticate"] == 'Bearer realm="steadytok"'
            assert json.loads(body)["status"] == "error"
            assert OWN.encode() not in body
            assert here.refused("credential") == 1

    within(tmp_path, test)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
@pytest.mark.parametrize("path", [WRITE, FORM + "/", "/api/v1//query", "/nothing", "/api/v1/%71uery/../remedies/pause"])
def test_what_is_not_known_to_read_is_closed(tmp_path: Path, method: str, path: str) -> None:
    """A method or a path that nobody declared open needs a credential before anything else is found out."""

    async def test(here: Place) -> None:
        status, _, _ = await here.ask(method, path, JSON, b"{}")

        assert status == 401
        assert here.reached == []

    within(tmp_path, test)


def test_reading_is_open(tmp_path: Path) -> None:
    """The metrics, and a query as Grafana posts it, from whatever page and with whatever stale credential."""

    async def test(here: Place) -> None:
        grafana = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": "http://grafana:3000",
            "Sec-Fetch-Site": "cross-site",
            "Authorization": "Basic Zm9vOmJhcg==",
        }
        assert (await here.ask("GET", READ))[0] == 200
        assert (await here.ask("HEAD", READ))[0] == 200
        assert (await here.ask("POST", FORM, grafana, b"query=up"))[0] == 200
        assert here.reached == [None]

    within(tmp_path, test)


def test_reading_can_be_closed(tmp_path: Path) -> None:
    """`web.read: credential` asks one of whoever reads."""

    async def test(here: Place) -> None:
        assert (await here.ask("GET", READ))[0] == 401
        assert (await here.ask("GET", "/-/healthy"))[0] == 401
        assert (await here.ask("POST", FORM, {}, b"query=up"))[0] == 401
        assert (await here.ask("GET", READ, BEARER))[0] == 200

    within(tmp_path, test, closed=True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9817", 200),
        ("LOCALHOST.", 200),
        ("[::1]:9817", 200),
        ("127.0.0.2", 200),
        ("box.example:9817", 200),
        ("agent.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example:127.0.0.1", 400),
        ("localhost@evil.example", 400),
        ("localhost/evil", 400),
        ("0x7f000001", 421),
        ("0.0.0.0", 421),
        ("[::ffff:10.0.0.1]", 421),
    ],
)
def test_a_listener_on_loopback_goes_by_its_own_names(tmp_path: Path, host: str, status: int) -> None:
    """A page whose name was made to point at 127.0.0.1 reads nothing; names of the configuration are let in."""

    async def test(here: Place) -> None:
        assert (await here.ask("GET", "/-/healthy", {"Host": host}))[0] == status

    within(tmp_path, test, hosts=["box.example"], external_url="https://agent.example/x")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /-/healthy HTTP/1.1\r\n\r\n", 400),
        (b"GET /-/healthy HTTP/1.0\r\n\r\n", 200),
        (b"GET /-/healthy HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET http://evil.example/-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n", 400),
        (b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nX: a\nEvil: b\r\n\r\n", 400),
        (b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n", 400),
        (b"GET /x\r\nEvil: y HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_tricks_with_the_head(tmp_path: Path, request_: bytes, status: int) -> None:
    """Two hosts, none, another in the address, a broken header: one refusal, and the connection is over."""

    async def test(here: Place) -> None:
        if request_.startswith(b"GET") and b"HTTP/1.1" in request_:
            asked = request_.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        else:
            asked = request_
        assert (await here.raw(asked))[0] == status

    within(tmp_path, test)


def test_no_smuggling(tmp_path: Path) -> None:
    """A request with two lengths, or a length and chunks, is refused; what is behind it is not taken for another."""

    async def test(here: Place) -> None:
        hidden = b"POST /api/v1/remedies/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        for lengths in (b"Content-Length: 5\r\nContent-Length: 0", b"Content-Length: 3\r\nTransfer-Encoding: chunked"):
            head = (
                b"POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                + lengths
                + b"\r\n\r\n0\r\n\r\n"
            )
            assert (await here.raw(head + hidden))[0] == 400
        assert here.reached == []

    within(tmp_path, test)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://HERE", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://agent.example"}, 200),
        ({"Origin": "http://agent.example"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_a_page_of_another_origin_changes_nothing(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """Whatever credential a browser adds: the origin of a change is this agent's, or external_url's."""

    async def test(here: Place) -> None:
        told = {name: value.replace("HERE", f"127.0.0.1:{here.port}") for name, value in headers.items()}
        assert (await here.ask("POST", WRITE, {**JSON, **BEARER, **told}, b"{}"))[0] == status
        assert len(here.reached) == (status == 200)

    within(tmp_path, test, external_url="https://agent.example/")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_change_is_json(tmp_path: Path, kind: str) -> None:
    """What a form of another page could send is no change."""

    async def test(here: Place) -> None:
        assert (await here.ask("POST", WRITE, {**BEARER, "Content-Type": kind}, b"{}"))[0] == 415

    within(tmp_path, test)


def test_users_close_everything(tmp_path: Path) -> None:
    """With basic_auth_users every page asks for one of them, or for a token; names cannot be told from passwords."""

    async def test(here: Place) -> None:
        for path in (READ, "/-/healthy", "/", "/nothing"):
            status, headers, _ = await here.ask("GET", path)
            assert (status, headers["www-authenticate"]) == (401, 'Basic realm="steadytok"')
        for name, password in (("alice", "x"), ("bob", "wonderland"), ("", ""), ("alice", "wonderland\0")):
            assert (await here.ask("GET", READ, basic(name, password)))[0] == 401
        assert (await here.ask("GET", READ, basic("alice", "wonderland")))[0] == 200
        assert (await here.ask("GET", READ, BEARER))[0] == 200
        assert (await here.ask("POST", WRITE, {**JSON, **basic("alice", "wonderland")}, b"{}"))[0] == 200
        assert here.reached == ["user alice"]

    within(tmp_path, test, config=users(tmp_path))


def test_guesses_wait_in_a_short_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More wrong passwords than may wait get a 429; whoever was known before is answered all the same."""
    monkeypatch.setattr("agent.web.passwords.MAX_WAITING", 2)
    slow = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(11)).decode()

    async def test(here: Place) -> None:
        assert (await here.ask("GET", READ, basic("alice", "wonderland")))[0] == 200
        guesses = [here.ask("GET", READ, basic("alice", f"guess {number}")) for number in range(20)]
        known = here.ask("GET", READ, basic("alice", "wonderland"))
        *guessed, (status, _, _) = await asyncio.gather(*guesses, known)
        statuses = {each[0] for each in guessed}

        assert status == 200
        assert statuses == {401, 429}
        assert next(each for each in guessed if each[0] == 429)[1]["retry-after"] == "1"

    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: '{slow}'}}\n")
    within(tmp_path, test, config=str(path))


def test_tokens_of_machines(tmp_path: Path) -> None:
    """A token's file is read again when it changes; a short one, and one that is gone, open nothing."""
    file = tmp_path / "alertmanager.token"
    file.write_text("first-token-of-a-machine\n")

    async def test(here: Place) -> None:
        async def with_token(token: str) -> int:
            return (await here.ask("POST", WRITE, {**JSON, "Authorization": f"Bearer {token}"}, b"{}"))[0]

        assert await with_token("first-token-of-a-machine") == 200
        assert here.reached == ["token alertmanager"]
        file.write_text("another-token-of-a-machine\n")
        assert await with_token("first-token-of-a-machine") == 401
        assert await with_token("another-token-of-a-machine") == 200
        file.write_text("short")
        assert await with_token("short") == 401
        file.unlink()
        assert await with_token("another-token-of-a-machine") == 401
        assert await with_token("") == 401

    within(tmp_path, test, tokens={"alertmanager": str(file)})


def test_what_every_answer_carries(tmp_path: Path) -> None:
    """Pages, refusals, missing pages and faults: no other origin, no sniffing, no frame; a fault tells nothing."""

    async def test(here: Place) -> None:
        asked = [("GET", "/-/healthy"), ("GET", READ), ("GET", "/nothing"), ("POST", WRITE), ("GET", "/broken")]
        answers = [await here.ask(method, path) for method, path in asked]

        assert [status for status, _, _ in answers] == [200, 200, 404, 401, 500]
        for _, headers, body in answers:
            assert headers["content-security-policy"].startswith("default-src 'self';")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "SAMEORIGIN"
            assert headers["server"] == "steadytok"
            assert b"secret" not in body

    within(tmp_path, test, config=_headers(tmp_path))


def _headers(folder: Path) -> str:
    path = folder / "web.yml"
    path.write_text("http_server_config: {headers: {X-Frame-Options: SAMEORIGIN}}\n")
    return str(path)


@pytest.mark.parametrize("path", [FORM, WRITE, READ, "/nothing"])
def test_a_gigabyte_is_refused_unread(tmp_path: Path, path: str) -> None:
    """A length that is too large is refused by its header, before a byte of it comes."""

    async def test(here: Place) -> None:
        method = "GET" if path == READ else "POST"
        told = {**JSON, **BEARER, "Content-Length": str(1 << 30)}
        assert (await here.ask(method, path, told))[0] == 413

    within(tmp_path, test)


@pytest.mark.parametrize(("path", "most"), [(FORM, access.MAX_FORM), (WRITE, access.MAX_BODY)])
def test_chunks_without_end_are_refused(tmp_path: Path, path: str, most: int) -> None:
    """A body that tells no length is read to its bound and no further."""

    async def test(here: Place) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OWN}\r\n"
        head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(head.encode())
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 30 and not reader.at_eof():
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
                sent += 65536
        told = b""
        with contextlib.suppress(ConnectionError):
            told = await reader.read()
        writer.close()

        assert told.startswith(b"HTTP/1.1 413") or not told  # a reset may overtake the answer
        assert sent < 64 << 20  # what the listener lets by, and the buffers of both sockets
        assert here.reached == []
        assert here.refused("size") == 1

    within(tmp_path, test)


def test_a_packed_body_is_refused(tmp_path: Path) -> None:
    """Nothing is unpacked: a few bytes could become a gigabyte."""

    async def test(here: Place) -> None:
        told = {**JSON, **BEARER, "Content-Encoding": "gzip"}
        assert (await here.ask("POST", WRITE, told, b"\x1f\x8b"))[0] == 415

    within(tmp_path, test)


def test_a_head_that_comes_a_byte_at_a_time_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However lively: without a whole head in its time a connection is over, the second request of one too."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.5)

    async def test(here: Place) -> None:
        first = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for before in (b"", first):
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
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

    within(tmp_path, test)


def test_a_body_that_comes_a_byte_at_a_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body has its time as well, and the client reads why."""
    monkeypatch.setattr(access, "BODY_TIMEOUT", 0.3)

    async def test(here: Place) -> None:
        status, _, body = await here.ask("POST", FORM, {"Content-Length": "100"}, b"q")

        assert status == 408
        assert b"did not come" in body

    within(tmp_path, test)


def test_who_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for much and reads none of it does not hold its place for ever."""
    monkeypatch.setattr(listener, "ANSWER_TIMEOUT", 0.3)

    async def test(here: Place) -> None:
        asking = socket.socket()
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(asking, ("127.0.0.1", here.port))
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
        await loop.sock_sendall(asking, request)
        assert here.door.listener is not None
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not here.door.listener.connections:
                break
        asking.close()

        assert here.door.listener.connections == 0

    within(tmp_path, test)


@pytest.mark.parametrize(
    ("said", "tls"),
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, tls: bool
) -> None:
    """
    Whoever is silent, slow in sending or takes no answer makes room when all places are taken, the oldest first.

    Over TLS also who never agrees on it.
    """
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 8)
    config, context = over_tls(tmp_path) if tls else (None, None)

    async def test(here: Place) -> None:
        held = [await asyncio.open_connection("127.0.0.1", here.port, limit=1024) for _ in range(40)]
        for _, writer in held:
            with contextlib.suppress(ConnectionError):  # it has made room already
                writer.write(said)
        await asyncio.sleep(0.1)
        for _ in range(5):
            assert (await here.ask("GET", READ, context=context))[0] == 200
        assert here.door.listener is not None
        assert here.door.listener.connections <= 8
        assert here.door.listener.refused_connections >= 32
        for _, writer in held:
            writer.close()

    within(tmp_path, test, config=config)


def test_strangers_before_tls_make_room_before_whoever_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has agreed on TLS, and has yet to ask, keeps its place while older strangers hold one."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    config, context = over_tls(tmp_path)

    async def test(here: Place) -> None:
        held = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=context)
        held += [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        writer.write(b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        for _, each in [*held, (reader, writer)]:
            each.close()

    within(tmp_path, test, config=config)


def test_no_descriptor_left_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often accepting is tried in vain; and whoever has waited is answered once there are descriptors again."""
    monkeypatch.setattr(listener, "ACCEPT_RETRY", 0.01)

    async def test(here: Place) -> None:
        asking = socket.socket()
        asking.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with capture_logs() as lines, open(os.devnull) as lowest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))
            try:
                await asyncio.get_running_loop().sock_connect(asking, ("127.0.0.1", here.port))
                await asyncio.sleep(0.3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            reader, writer = await asyncio.open_connection(sock=asking)
            writer.write(b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()

        assert [line["reason"] for line in lines] == ["Too many open files"]

    within(tmp_path, test)


def test_localhost_is_all_its_addresses(tmp_path: Path) -> None:
    """A listener on a name answers at each address of the name, at one port."""

    async def run() -> list[int]:
        here = Place(tmp_path, listen="localhost:0")
        here.port = await here.server.start("localhost", 0)
        found = []
        for address in {info[4][0] for info in socket.getaddrinfo("localhost", here.port, type=socket.SOCK_STREAM)}:
            reader, writer = await asyncio.open_connection(address, here.port)
            writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            found.append(int((await reader.read()).split()[1]))
            writer.close()
        await here.server.close()
        return found

    assert set(asyncio.run(run())) == {200}


def test_tls_and_its_clients(tmp_path: Path) -> None:
    """A client certificate of the authority is a credential; of another name it is refused; plain HTTP finds nobody."""
    authority = certificates.authority(tmp_path)
    certificates.signed(tmp_path, "server")
    prometheus = certificates.signed(tmp_path, "prometheus", "DNS:prometheus.example")
    other = certificates.signed(tmp_path, "other", "DNS:other.example")
    path = tmp_path / "web.yml"
    path.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, min_version: TLS13,"
        " client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [prometheus.example]}\n"
    )

    async def test(here: Place) -> None:
        def context(pair: tuple[Path, Path] | None) -> ssl.SSLContext:
            made = ssl.create_default_context(cafile=str(authority))
            if pair is not None:
                made.load_cert_chain(*pair)
            return made

        assert (await here.ask("GET", READ, context=context(prometheus)))[0] == 200
        assert (await here.ask("POST", WRITE, JSON, b"{}", context=context(prometheus)))[0] == 200
        assert here.reached == ["certificate prometheus"]
        assert (await here.ask("GET", READ, context=context(other)))[0] == 403
        for nobody in (context(None), None):
            with contextlib.suppress(OSError):
                assert (await here.ask("GET", READ, context=nobody))[0] == 0
        old = context(prometheus)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with contextlib.suppress(OSError):
            assert (await here.ask("GET", READ, context=old))[0] == 0

    within(tmp_path, test, config=str(path))


def test_a_certificate_stands_in_for_no_user(tmp_path: Path) -> None:
    """Where both both are asked for, as in Prometheus' own servers; a machine's token stands in for one."""
    config, context = over_tls(tmp_path, f"basic_auth_users: {{alice: '{ALICE}'}}\n")
    path = Path(config)
    demand = "client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert"
    path.write_text(path.read_text().replace("}", f", {demand}}}", 1))
    context.load_cert_chain(*certificates.signed(tmp_path, "prometheus"))

    async def test(here: Place) -> None:
        assert (await here.ask("GET", READ, context=context))[0] == 401
        assert (await here.ask("POST", WRITE, JSON, b"{}", context=context))[0] == 401
        assert (await here.ask("GET", READ, basic("alice", "x"), context=context))[0] == 401
        assert (await here.ask("GET", READ, basic("alice", "wonderland"), context=context))[0] == 200
        assert (await here.ask("POST", WRITE, {**JSON, **BEARER}, b"{}", context=context))[0] == 200

    within(tmp_path, test, config=config)


def test_a_changed_file_holds_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new certificate and a new user are taken over; a bad file keeps the old one, and is read again once mended."""
    monkeypatch.setattr(access, "RELOAD_INTERVAL", 0.02)
    config, context = over_tls(tmp_path)
    path = Path(config)
    tls = path.read_text()

    async def test(here: Place) -> None:
        async def status(**alice: str) -> int:
            return (await here.ask("GET", READ, alice and basic("alice", alice["password"]), context=context))[0]

        async def serial() -> Any:
            _reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=context)
            found = writer.get_extra_info("peercert")["serialNumber"]
            writer.close()
            return found

        before = await serial()
        certificates.signed(tmp_path, "server")
        await until(lambda: _differs(serial, before))
        path.write_text(f"{tls}basic_auth_users: {{alice: '{ALICE}'}}\n")
        await until(lambda: _is(status, 401))
        path.write_text("basic_auth_users: {alice: plain}\n")
        await asyncio.sleep(0.2)
        assert await status() == 401
        looking = bcrypt.hashpw(b"looking-glass", bcrypt.gensalt(4)).decode()
        path.write_text(f"{tls}basic_auth_users: {{alice: '{looking}'}}\n")
        await until(lambda: _is(lambda: status(password="looking-glass"), 200))

    within(tmp_path, test, config=config)


@pytest.mark.parametrize(
    ("cut", "gone"), [(0, "tls_server_config, client_ca_file, basic_auth_users"), (1, "tls"), (2, "basic")]
)
def test_a_file_that_is_being_written_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, gone: str
) -> None:
    """A file that has, for a moment or for good, less of what keeps people out is not used; the reason is told."""
    monkeypatch.setattr(access, "RELOAD_INTERVAL", 0.02)
    optional = "client_ca_file: ca.crt, client_auth_type: VerifyClientCertIfGiven"
    config, context = over_tls(tmp_path, f"basic_auth_users: {{alice: '{ALICE}'}}\n")
    path = Path(config)
    whole = path.read_text().replace("}", f", {optional}}}", 1)
    path.write_text(whole)
    tls, people = whole.splitlines(keepends=True)

    async def test(here: Place) -> None:
        with capture_logs() as lines:
            path.write_text(("", people, tls)[cut])
            await until(lambda: _is(lambda: _said(lines), True))
            assert (await here.ask("GET", READ, context=context))[0] == 401
            path.write_text(f"{whole}http_server_config: {{headers: {{X-Frame-Options: SAMEORIGIN}}}}\n")
            await until(lambda: _is(lambda: _framed(here, context), "SAMEORIGIN"))

        assert f"{path}: expected {gone}" in str(lines)

    within(tmp_path, test, config=config)


def test_a_certificate_that_comes_late_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file that names a certificate which is not there yet holds as soon as it is."""
    monkeypatch.setattr(access, "RELOAD_INTERVAL", 0.02)
    config, context = over_tls(tmp_path)

    async def test(here: Place) -> None:
        with capture_logs() as lines:
            Path(config).write_text("tls_server_config: {cert_file: late.crt, key_file: late.key}\n")
            await until(lambda: _is(lambda: _said(lines), True))
        certificates.signed(tmp_path, "late")

        async def name() -> Any:
            _reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=context)
            found = writer.get_extra_info("peercert")["subject"]
            writer.close()
            return found

        await until(lambda: _is(name, ((("commonName", "late"),),)))

    within(tmp_path, test, config=config)


def test_what_is_written_while_it_is_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write between the reading of the file and its use makes it changed."""
    path = Path(users(tmp_path))
    document = webconfig.configuration.read_document

    def read_and_written(read: Path | None) -> dict[str, Any]:
        found = document(read)
        with path.open("a") as file:
            file.write("# more\n")
        return found

    monkeypatch.setattr(webconfig.configuration, "read_document", read_and_written)

    assert webconfig.load_web_config(str(path)).has_changed


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(300):
        if await condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("the file was never taken over")


async def _said(lines: list[Any]) -> bool:
    return any(line["log_level"] == "error" for line in lines)


async def _framed(here: Place, context: ssl.SSLContext) -> str | None:
    return (await here.ask("GET", READ, context=context))[1].get("x-frame-options")


async def _is(asked: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return bool(await asked() == wanted)


async def _differs(asked: Callable[[], Awaitable[Any]], before: Any) -> bool:
    return bool(await asked() != before)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("basic_auth_users: {alice: wonderland}", "$.basic_auth_users.alice: expected a bcrypt hash"),
        (f"basic_auth_users: {{alice: '$2y$31${'a' * 53}'}}", "expected a bcrypt cost of 4 to 15, found 31"),
        ("tls_server_config: {cert_file: a}", "expected the key 'key_file'"),
        ("tls_server_config: {cert_file: a, key_file: b}", "cert_file and key_file: cannot be used: No such file"),
        ("tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}", "min_version"),
        ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}", "client_auth_type"),
        ("tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}", "client_ca_file"),
        ("tls_server_config: {cert_file: a, key_file: b, cipher_suites: [RC4]}", "cipher_suites"),
        ('http_server_config: {headers: {X-Frame-Options: "a\\nb: c"}}', "expected printable ASCII on one line"),
        ("http_server_config: {headers: {Location: x}}", "headers.Location: expected one of"),
        ("tls_server_confg: {}", "did you mean 'tls_server_config'?"),
        ("[]", "expected a mapping"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, fault: str) -> None:
    """Each fault is one sentence with its place; a password is never in it."""
    path = tmp_path / "web.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        webconfig.load_web_config(str(path))

    assert fault in str(raised.value)
    assert "wonderland" not in str(raised.value)


def test_a_command_says_which_certificate_cannot_be_used(tmp_path: Path) -> None:
    """Its own, or the agent's: with the key or the file under which it stands."""
    config, _ = over_tls(tmp_path)
    with pytest.raises(ConfigError, match=r"web.client_certificate cannot be used: No such file .*; run this as the"):
        webconfig.build_client_context(config, ClientCertificate("nowhere.crt", "nowhere.key"))
    (tmp_path / "server.crt").unlink()
    with pytest.raises(ConfigError, match=r"web.yml: its certificate cannot be used: No such file"):
        webconfig.build_client_context(config, None)


def test_cipher_suites_go_by_gos_names() -> None:
    """What exporter-toolkit calls a suite is what OpenSSL finds under its own name."""
    suites = ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")
    suites += ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA256")
    names = [webconfig._to_openssl_name(suite) for suite in suites]

    assert names == [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-SHA",
        "AES128-SHA256",
    ]
