"""The description of what is answered over HTTP is whole, and served."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import aiohttp
import yaml
from prometheus_client import CollectorRegistry

from agent.web.query_api import Api
from agent.web.remedies_api import Door
from agent.web.server import DESCRIPTION, Server
from agent.web.webhook_api import Posted, Webhook


def described() -> set[tuple[str, str]]:
    told = yaml.safe_load(DESCRIPTION.read_text())
    return {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}


def agents_routes() -> list[Any]:
    nobody: Any = None
    posted = Posted(nobody, nobody, list, {}, "http://box", lambda: 0)
    return [
        *Api(nobody).routes(),
        *Door(nobody, lambda: 0).routes(),
        *Webhook(posted, CollectorRegistry()).routes(),
    ]


def test_every_route_is_described() -> None:
    """And nothing else is; what only reads is open, and what changes something names its credential."""
    told = yaml.safe_load(DESCRIPTION.read_text())
    own = {("GET", path) for path in ("/", "/graph", "/metrics", "/-/healthy", "/-/ready", "/openapi.yml")}
    found = {(route.method, route.path) for route in agents_routes()} | own

    assert described() == found
    forms = {route.path for route in Api(cast(Any, None)).routes() if route.method == "POST"}
    closed = {path for path, methods in told["paths"].items() if "post" in methods and path not in forms}
    assert all(told["paths"][path]["post"]["security"] == [{"bearer": []}, {"basic": []}] for path in closed)


def test_it_is_served(tmp_path: Path) -> None:
    """As it lies in the package."""

    async def ask() -> tuple[str, bytes]:
        server = Server(metrics=str, since_tick=lambda: 0.0, interval=1.0)
        port = await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/openapi.yml") as answer:
            found = (answer.content_type, await answer.read())
        await server.close()
        return found

    assert asyncio.run(ask()) == ("application/yaml", DESCRIPTION.read_bytes())
