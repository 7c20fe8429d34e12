"""The web configuration file: TLS, client certificates, users, and its reload."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from structlog.testing import capture_logs

from agent.config.loader import ConfigError
from agent.config.schema import ClientCertificate
from agent.web import access, webconfig
from tests import certificates
from tests.agent.web.served_site import (
    ALICE,
    BEARER,
    JSON,
    READ,
    WRITE,
    ServedSite,
    build_basic_auth,
    configure_tls,
    run_test,
    write_users,
)


def test_tls_and_its_clients(tmp_path: Path) -> None:
    """A client certificate of the authority is a credential; one with another name is refused, and so is plain HTTP."""
    authority = certificates.create_authority(tmp_path)
    certificates.create_certificate(tmp_path, "server")
    prometheus = certificates.create_certificate(tmp_path, "prometheus", "DNS:prometheus.example")
    other = certificates.create_certificate(tmp_path, "other", "DNS:other.example")
    path = tmp_path / "web.yml"
    path.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, min_version: TLS13,"
        " client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [prometheus.example]}\n"
    )

    async def test(site: ServedSite) -> None:
        def context(pair: tuple[Path, Path] | None) -> ssl.SSLContext:
            client_context = ssl.create_default_context(cafile=str(authority))
            if pair is not None:
                client_context.load_cert_chain(*pair)
            return client_context

        assert (await site.ask("GET", READ, context=context(prometheus)))[0] == 200
        assert (await site.ask("POST", WRITE, JSON, b"{}", context=context(prometheus)))[0] == 200
        assert site.reached == ["certificate prometheus"]
        assert (await site.ask("GET", READ, context=context(other)))[0] == 403
        for nobody in (context(None), None):
            with contextlib.suppress(OSError):
                assert (await site.ask("GET", READ, context=nobody))[0] == 0
        old = context(prometheus)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with contextlib.suppress(OSError):
            assert (await site.ask("GET", READ, context=old))[0] == 0

    run_test(tmp_path, test, config=str(path))


def test_a_certificate_stands_in_for_no_user(tmp_path: Path) -> None:
    """With users and certificates both are required, as in Prometheus' own servers; a token replaces a user."""
    config, context = configure_tls(tmp_path, f"basic_auth_users: {{alice: '{ALICE}'}}\n")
    path = Path(config)
    demand = "client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert"
    path.write_text(path.read_text().replace("}", f", {demand}}}", 1))
    context.load_cert_chain(*certificates.create_certificate(tmp_path, "prometheus"))

    async def test(site: ServedSite) -> None:
        assert (await site.ask("GET", READ, context=context))[0] == 401
        assert (await site.ask("POST", WRITE, JSON, b"{}", context=context))[0] == 401
        assert (await site.ask("GET", READ, build_basic_auth("alice", "x"), context=context))[0] == 401
        assert (await site.ask("GET", READ, build_basic_auth("alice", "wonderland"), context=context))[0] == 200
        assert (await site.ask("POST", WRITE, {**JSON, **BEARER}, b"{}", context=context))[0] == 200

    run_test(tmp_path, test, config=config)


def test_a_changed_file_holds_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new certificate and a new user take effect; a bad file is not used until it is corrected."""
    monkeypatch.setattr(access, "RELOAD_INTERVAL", 0.02)
    config, context = configure_tls(tmp_path)
    path = Path(config)
    tls = path.read_text()

    async def test(site: ServedSite) -> None:
        async def status(**alice: str) -> int:
            return (
                await site.ask("GET", READ, alice and build_basic_auth("alice", alice["password"]), context=context)
            )[0]

        async def serial() -> Any:
            _reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context)
            number = writer.get_extra_info("peercert")["serialNumber"]
            writer.close()
            return number

        before = await serial()
        certificates.create_certificate(tmp_path, "server")
        await until(lambda: _differs(serial, before))
        path.write_text(f"{tls}basic_auth_users: {{alice: '{ALICE}'}}\n")
        await until(lambda: _equals(status, 401))
        path.write_text("basic_auth_users: {alice: plain}\n")
        await asyncio.sleep(0.2)
        assert await status() == 401
        looking = bcrypt.hashpw(b"looking-glass", bcrypt.gensalt(4)).decode()
        path.write_text(f"{tls}basic_auth_users: {{alice: '{looking}'}}\n")
        await until(lambda: _equals(lambda: status(password="looking-glass"), 200))

    run_test(tmp_path, test, config=config)


@pytest.mark.parametrize(
    ("cut", "gone"), [(0, "tls_server_config, client_ca_file, basic_auth_users"), (1, "tls"), (2, "basic")]
)
def test_a_file_that_is_being_written_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, gone: str
) -> None:
    """A file that lifts a restriction, even for a moment, is not used, and the reason is logged."""
    monkeypatch.setattr(access, "RELOAD_INTERVAL", 0.02)
    optional = "client_ca_file: ca.crt, client_auth_type: VerifyClientCertIfGiven"
    config, context = configure_tls(tmp_path, f"basic_auth_users: {{alice: '{ALICE}'}}\n")
    path = Path(config)
    full_text = path.read_text().replace("}", f", {optional}}}", 1)
    path.write_text(full_text)
    tls, people = full_text.splitlines(keepends=True)

    async def test(site: ServedSite) -> None:
        with capture_logs() as lines:
            path.write_text(("", people, tls)[cut])
            await until(lambda: _equals(lambda: _has_error(lines), True))
            assert (await site.ask("GET", READ, context=context))[0] == 401
            path.write_text(f"{full_text}http_server_config: {{headers: {{X-Frame-Options: SAMEORIGIN}}}}\n")
            await until(lambda: _equals(lambda: _fetch_frame_options(site, context), "SAMEORIGIN"))

        assert f"{path}: expected {gone}" in str(lines)

    run_test(tmp_path, test, config=config)


def test_a_certificate_that_comes_late_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file whose certificate is missing takes effect as soon as the certificate exists."""
    monkeypatch.setattr(access, "RELOAD_INTERVAL", 0.02)
    config, context = configure_tls(tmp_path)

    async def test(site: ServedSite) -> None:
        with capture_logs() as lines:
            Path(config).write_text("tls_server_config: {cert_file: late.crt, key_file: late.key}\n")
            await until(lambda: _equals(lambda: _has_error(lines), True))
        certificates.create_certificate(tmp_path, "late")

        async def name() -> Any:
            _reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context)
            subject = writer.get_extra_info("peercert")["subject"]
            writer.close()
            return subject

        await until(lambda: _equals(name, ((("commonName", "late"),),)))

    run_test(tmp_path, test, config=config)


def test_what_is_written_while_it_is_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write between the stamp and the read of a file counts as a change."""
    path = Path(write_users(tmp_path))
    document = webconfig.loader.read_document

    def read_and_append(read: Path | None) -> dict[str, Any]:
        content = document(read)
        with path.open("a") as file:
            file.write("# more\n")
        return content

    monkeypatch.setattr(webconfig.loader, "read_document", read_and_append)

    assert webconfig.load_web_config(str(path)).has_changed


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(300):
        if await condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("the file was never taken over")


async def _has_error(lines: list[Any]) -> bool:
    return any(line["log_level"] == "error" for line in lines)


async def _fetch_frame_options(site: ServedSite, context: ssl.SSLContext) -> str | None:
    return (await site.ask("GET", READ, context=context))[1].get("x-frame-options")


async def _equals(read_value: Callable[[], Awaitable[Any]], expected: Any) -> bool:
    return bool(await read_value() == expected)


async def _differs(read_value: Callable[[], Awaitable[Any]], before: Any) -> bool:
    return bool(await read_value() != before)


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
    """Each fault is one sentence with its key, and never holds a password."""
    path = tmp_path / "web.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        webconfig.load_web_config(str(path))

    assert fault in str(raised.value)
    assert "wonderland" not in str(raised.value)


def test_a_command_says_which_certificate_cannot_be_used(tmp_path: Path) -> None:
    """The sentence names the key or the file of the unusable certificate."""
    config, _ = configure_tls(tmp_path)
    with pytest.raises(ConfigError, match=r"web.client_certificate cannot be used: No such file .*; run this as the"):
        webconfig.build_client_context(config, ClientCertificate("nowhere.crt", "nowhere.key"))
    (tmp_path / "server.crt").unlink()
    with pytest.raises(ConfigError, match=r"web.yml: its certificate cannot be used: No such file"):
        webconfig.build_client_context(config, None)


def test_cipher_suites_go_by_gos_names() -> None:
    """The names of exporter-toolkit become the names of OpenSSL."""
    suites = ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")
    suites += ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA256")
    names = [webconfig._to_openssl_name(suite) for suite in suites]

    assert names == [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-SHA",
        "AES128-SHA256",
    ]
