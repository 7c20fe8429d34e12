"""A web server with access control on loopback, and its configuration for tests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import bcrypt
from aiohttp import web
from prometheus_client import CollectorRegistry

from agent.web.access import CREDENTIAL, AccessControl, build_access_policy
from agent.web.credentials import Credentials
from agent.web.server import WebServer
from tests import certificates

OWN = "own-token-of-the-state-folder"
ALICE = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(4)).decode()
FORM, WRITE, READ = "/api/v1/query", "/api/v1/remedies/pause", "/metrics"
BEARER = {"Authorization": f"Bearer {OWN}"}
JSON = {"Content-Type": "application/json"}


class ServedSite:
    """A server with access control, and the credentials that reached its routes."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.reached: list[str | None] = []
        self.registry = CollectorRegistry()
        listen = options.pop("listen", "127.0.0.1:0")
        tokens = options.pop("tokens", {})
        path = options.pop("config", None)
        rules = build_access_policy(
            listen,
            options.pop("hosts", ()),
            options.pop("external_url", None),
            requires_credential=options.pop("closed", False),
            form_paths=[FORM],
        )
        self.access_control = AccessControl(rules, Credentials(OWN, tokens), path, self.registry)
        routes = [web.post(FORM, self._reach), web.post(WRITE, self._reach), web.get("/broken", self._break)]
        self.server = WebServer(
            metrics=lambda: lambda: b"x 1\n" * 100_000,
            tick_number=int,
            since_tick=lambda: 0.0,
            interval=1.0,
            routes=routes,
            access_control=self.access_control,
        )
        self.port = 0

    async def _reach(self, request: web.Request) -> web.Response:
        self.reached.append(request.get(CREDENTIAL))
        return web.Response(text=(await request.text())[:10])

    async def _break(self, request: web.Request) -> web.Response:
        raise RuntimeError("secret-in-an-exception")

    def count_refused(self, reason: str) -> float:
        return self.registry.get_sample_value("steadytok_http_refused_total", {"reason": reason}) or 0.0

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"", **how: Any
    ) -> tuple[int, dict[str, str], bytes]:
        request_headers = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body or method == "POST":
            request_headers.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in request_headers.items() if value)]
        return await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body, **how)

    async def send(self, request: bytes, context: ssl.SSLContext | None = None) -> tuple[int, dict[str, str], bytes]:
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
async def serve(folder: Path, **options: Any) -> AsyncIterator[ServedSite]:
    site = ServedSite(folder, **options)
    site.port = await site.server.start("127.0.0.1", 0)
    try:
        yield site
    finally:
        await site.server.close()


Test = Callable[[ServedSite], Awaitable[None]]


def run_test(folder: Path, test: Test, **options: Any) -> None:
    async def run() -> None:
        async with serve(folder, **options) as site:
            await test(site)

    asyncio.run(run())


def write_users(folder: Path, more: str = "") -> str:
    path = folder / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: '{ALICE}'}}\n{more}")
    return str(path)


def build_basic_auth(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def configure_tls(folder: Path, more: str = "") -> tuple[str, ssl.SSLContext]:
    """Writes a web configuration with a server's certificate; returns its path and a client's TLS context."""
    authority = certificates.create_authority(folder)
    certificates.create_certificate(folder, "server")
    path = folder / "web.yml"
    path.write_text(f"tls_server_config: {{cert_file: server.crt, key_file: server.key}}\n{more}")
    return str(path), ssl.create_default_context(cafile=str(authority))
