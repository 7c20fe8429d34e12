"""The OpenAPI description is complete and served."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import aiohttp
import yaml

from agent.web.query_api import QueryApi
from agent.web.remedies_api import RemediesApi
from agent.web.server import OPENAPI_FILE, WebServer
from agent.web.webhook_api import WebhookApi
from tests.agent.web.contexts import build_context


def read_described_routes() -> set[tuple[str, str]]:
    description = yaml.safe_load(OPENAPI_FILE.read_text())
    return {
        (method.upper(), path)
        for path, entry in description["paths"].items()
        for method in entry.keys() - {"parameters"}
    }


def list_routes() -> list[Any]:
    context = build_context(external_url="http://box")
    return [
        *QueryApi(context).routes(),
        *RemediesApi(context.remedies, lambda: 0, int).routes(),
        *WebhookApi(context).routes(),
    ]


def test_every_route_is_described() -> None:
    """The description lists exactly the routes; every change names its credential."""
    description = yaml.safe_load(OPENAPI_FILE.read_text())
    open_pages = {("GET", path) for path in ("/", "/graph", "/metrics", "/-/healthy", "/-/ready", "/openapi.yml")}
    routes = {(route.method, route.path) for route in list_routes()} | open_pages

    assert read_described_routes() == routes
    forms = {route.path for route in QueryApi(cast(Any, None)).routes() if route.method == "POST"}
    closed = {path for path, methods in description["paths"].items() if "post" in methods and path not in forms}
    assert all(description["paths"][path]["post"]["security"] == [{"bearer": []}, {"basic": []}] for path in closed)


def test_it_is_served(tmp_path: Path) -> None:
    """The served description is the file of the package."""

    async def ask() -> tuple[str, bytes]:
        server = WebServer(metrics=lambda: bytes, tick_number=int, since_tick=lambda: 0.0, interval=1.0)
        port = await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/openapi.yml") as answer:
            served = (answer.content_type, await answer.read())
        await server.close()
        return served

    assert asyncio.run(ask()) == ("application/yaml", OPENAPI_FILE.read_bytes())
