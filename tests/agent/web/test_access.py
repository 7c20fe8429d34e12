"""Access control, tested over sockets with valid and invalid clients."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import bcrypt
import pytest

from tests.agent.web.served_site import (
    BEARER,
    FORM,
    JSON,
    OWN,
    READ,
    WRITE,
    ServedSite,
    build_basic_auth,
    run_test,
    write_users,
)
from tests.secret_files import write_secret


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
    """Without a valid credential no route is reached, on loopback too, and the answer names the expected scheme."""

    async def test(site: ServedSite) -> None:
        answered, answer_headers, body = await site.ask("POST", WRITE, {**JSON, **headers}, b"{}")

        assert answered == status
        assert site.reached == (["the state folder's token"] if status == 200 else [])
        if status == 401:
            assert answer_headers["www-authenticate"] == 'Bearer realm="steadytok"'
            assert json.loads(body)["status"] == "error"
            assert OWN.encode() not in body
            assert site.count_refused("credential") == 1

    run_test(tmp_path, test)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
@pytest.mark.parametrize("path", [WRITE, FORM + "/", "/api/v1//query", "/nothing", "/api/v1/%71uery/../remedies/pause"])
def test_what_is_not_known_to_read_is_closed(tmp_path: Path, method: str, path: str) -> None:
    """A method or a path that no route declares open needs a credential before anything else is checked."""

    async def test(site: ServedSite) -> None:
        status, _, _ = await site.ask(method, path, JSON, b"{}")

        assert status == 401
        assert site.reached == []

    run_test(tmp_path, test)


def test_reading_is_open(tmp_path: Path) -> None:
    """The metrics and a query as Grafana posts it are open, from any page and with a stale credential."""

    async def test(site: ServedSite) -> None:
        grafana = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": "http://grafana:3000",
            "Sec-Fetch-Site": "cross-site",
            "Authorization": "Basic Zm9vOmJhcg==",
        }
        assert (await site.ask("GET", READ))[0] == 200
        assert (await site.ask("HEAD", READ))[0] == 200
        assert (await site.ask("POST", FORM, grafana, b"query=up"))[0] == 200
        assert site.reached == [None]

    run_test(tmp_path, test)


def test_reading_can_be_closed(tmp_path: Path) -> None:
    """With `web.read: credential` reading needs a credential."""

    async def test(site: ServedSite) -> None:
        assert (await site.ask("GET", READ))[0] == 401
        assert (await site.ask("GET", "/-/healthy"))[0] == 401
        assert (await site.ask("POST", FORM, {}, b"query=up"))[0] == 401
        assert (await site.ask("GET", READ, BEARER))[0] == 200

    run_test(tmp_path, test, closed=True)


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
    """A page whose name resolves to 127.0.0.1 reads nothing; the configured names are accepted."""

    async def test(site: ServedSite) -> None:
        assert (await site.ask("GET", "/-/healthy", {"Host": host}))[0] == status

    run_test(tmp_path, test, hosts=["box.example"], external_url="https://agent.example/x")


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
    """Two hosts, no host, a host in the address, or a broken header get one refusal and a closed connection."""

    async def test(site: ServedSite) -> None:
        if request_.startswith(b"GET") and b"HTTP/1.1" in request_:
            head = request_.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        else:
            head = request_
        assert (await site.send(head))[0] == status

    run_test(tmp_path, test)


def test_no_smuggling(tmp_path: Path) -> None:
    """A request with two lengths, or a length and chunks, is refused, and the bytes after it are no second request."""

    async def test(site: ServedSite) -> None:
        hidden = b"POST /api/v1/remedies/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        for lengths in (b"Content-Length: 5\r\nContent-Length: 0", b"Content-Length: 3\r\nTransfer-Encoding: chunked"):
            head = (
                b"POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                + lengths
                + b"\r\n\r\n0\r\n\r\n"
            )
            assert (await site.send(head + hidden))[0] == 400
        assert site.reached == []

    run_test(tmp_path, test)


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
    """A change must come from the origin of this agent or of external_url, whatever credential a browser adds."""

    async def test(site: ServedSite) -> None:
        sent = {name: value.replace("HERE", f"127.0.0.1:{site.port}") for name, value in headers.items()}
        assert (await site.ask("POST", WRITE, {**JSON, **BEARER, **sent}, b"{}"))[0] == status
        assert len(site.reached) == (status == 200)

    run_test(tmp_path, test, external_url="https://agent.example/")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_change_is_json(tmp_path: Path, kind: str) -> None:
    """A content type that a form of another page could send is refused for a change."""

    async def test(site: ServedSite) -> None:
        assert (await site.ask("POST", WRITE, {**BEARER, "Content-Type": kind}, b"{}"))[0] == 415

    run_test(tmp_path, test)


def test_users_close_everything(tmp_path: Path) -> None:
    """With basic_auth_users every page needs a user or a token; a wrong name and a wrong password look alike."""

    async def test(site: ServedSite) -> None:
        for path in (READ, "/-/healthy", "/", "/nothing"):
            status, headers, _ = await site.ask("GET", path)
            assert (status, headers["www-authenticate"]) == (401, 'Basic realm="steadytok"')
        for name, password in (("alice", "x"), ("bob", "wonderland"), ("", ""), ("alice", "wonderland\0")):
            assert (await site.ask("GET", READ, build_basic_auth(name, password)))[0] == 401
        assert (await site.ask("GET", READ, build_basic_auth("alice", "wonderland")))[0] == 200
        assert (await site.ask("GET", READ, BEARER))[0] == 200
        assert (await site.ask("POST", WRITE, {**JSON, **build_basic_auth("alice", "wonderland")}, b"{}"))[0] == 200
        assert site.reached == ["user alice"]

    run_test(tmp_path, test, config=write_users(tmp_path))


def test_guesses_wait_in_a_short_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong passwords beyond the queue get a 429; a client with a cached password is still answered."""
    monkeypatch.setattr("agent.web.passwords.MAX_WAITING", 2)
    slow = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(11)).decode()

    async def test(site: ServedSite) -> None:
        assert (await site.ask("GET", READ, build_basic_auth("alice", "wonderland")))[0] == 200
        guesses = [site.ask("GET", READ, build_basic_auth("alice", f"guess {number}")) for number in range(20)]
        known_client = site.ask("GET", READ, build_basic_auth("alice", "wonderland"))
        *guessed, (status, _, _) = await asyncio.gather(*guesses, known_client)
        statuses = {each[0] for each in guessed}

        assert status == 200
        assert statuses == {401, 429}
        assert next(each for each in guessed if each[0] == 429)[1]["retry-after"] == "1"

    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: '{slow}'}}\n")
    run_test(tmp_path, test, config=str(path))


def test_tokens_of_machines(tmp_path: Path) -> None:
    """A token's file is read again when it changes; a short token and a missing file grant nothing."""
    file = tmp_path / "alertmanager.token"
    write_secret(file, "first-token-of-a-machine\n")

    async def test(site: ServedSite) -> None:
        async def with_token(token: str) -> int:
            return (await site.ask("POST", WRITE, {**JSON, "Authorization": f"Bearer {token}"}, b"{}"))[0]

        assert await with_token("first-token-of-a-machine") == 200
        assert site.reached == ["token alertmanager"]
        file.write_text("another-token-of-a-machine\n")
        assert await with_token("first-token-of-a-machine") == 401
        assert await with_token("another-token-of-a-machine") == 200
        file.write_text("short")
        assert await with_token("short") == 401
        file.unlink()
        assert await with_token("another-token-of-a-machine") == 401
        assert await with_token("") == 401

    run_test(tmp_path, test, tokens={"alertmanager": str(file)})


def test_what_every_answer_carries(tmp_path: Path) -> None:
    """Every answer, errors included, forbids other origins, sniffing and frames; a fault reveals nothing."""

    async def test(site: ServedSite) -> None:
        requests = [("GET", "/-/healthy"), ("GET", READ), ("GET", "/nothing"), ("POST", WRITE), ("GET", "/broken")]
        answers = [await site.ask(method, path) for method, path in requests]

        assert [status for status, _, _ in answers] == [200, 200, 404, 401, 500]
        for _, headers, body in answers:
            assert headers["content-security-policy"].startswith("default-src 'self';")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "SAMEORIGIN"
            assert headers["server"] == "steadytok"
            assert b"secret" not in body

    run_test(tmp_path, test, config=_headers(tmp_path))


def _headers(folder: Path) -> str:
    path = folder / "web.yml"
    path.write_text("http_server_config: {headers: {X-Frame-Options: SAMEORIGIN}}\n")
    return str(path)
