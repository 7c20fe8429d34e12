"""
Serves the page at / and its files: read once at the start, compressed, and nothing from another host.

The page's scripts send the queries of `static/panels.json` to the query API (agent/web/query_api.py), as `steadytok
top` does. There is no inline script or style: access.py sends the policy `default-src 'self'`.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# The browser validates its copy each time: after an upgrade no old script meets a new page.
HEADERS: Mapping[str, str] = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class _File:
    content_type: str
    plain: bytes
    gzipped: bytes
    etag: str


class StaticPages:
    """Serves the page's files from memory."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Reads every file; raises OSError when the package is incomplete."""
        self._files = {path.name: _load_file(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}

    def routes(self) -> list[web.RouteDef]:
        """Returns a route for the page and one for each file: no name from a request reaches the disk."""
        file_routes = [
            web.get(f"/static/{name}", _wrap_route(file)) for name, file in self._files.items() if name != INDEX
        ]
        icon = _wrap_route(self._files["icon.svg"])
        page = _wrap_route(self._files[INDEX])
        return [web.get("/", page), web.get("/graph", _redirect_to_page), web.get("/favicon.ico", icon), *file_routes]


async def _redirect_to_page(request: web.Request) -> web.Response:
    """Redirects an alert's link, which has Prometheus' form; relative, since a proxy may add a prefix."""
    return web.Response(status=HTTPStatus.FOUND, headers={"Location": "./"})


def _load_file(path: Path) -> _File:
    plain = path.read_bytes()
    gzipped = gzip.compress(plain, mtime=0)
    return _File(TYPES[path.suffix], plain, gzipped, f'"{hashlib.sha256(plain).hexdigest()[:20]}"')


def _wrap_route(file: _File) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        headers = {**HEADERS, "ETag": file.etag, "Content-Type": file.content_type}
        if file.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=file.gzipped, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=file.plain, headers=headers)

    return serve
