"""
The page at / and the files that it is made of: read once, sent packed, never from another host.

Its scripts ask the agent's own query API (agent/web/query_api.py); `static/panels.json` says what, and `steadytok top`
asks the same. There is no inline script or style, because the door (agent/web/access.py) sends `default-src 'self'`.
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
# Kept by the browser but asked for each time: after an upgrade no old script meets a new page.
HEADERS: Mapping[str, str] = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class _File:
    content_type: str
    plain: bytes
    gzipped: bytes
    etag: str


class StaticPages:
    """The page's files, in memory."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Reads all of them; OSError where the package is not whole."""
        self._files = {path.name: _load_file(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}

    def routes(self) -> list[web.RouteDef]:
        """The page, and each of its files by its own address: no name from a request ever reaches the disk."""
        file_routes = [
            web.get(f"/static/{name}", _wrap_route(file)) for name, file in self._files.items() if name != INDEX
        ]
        icon = _wrap_route(self._files["icon.svg"])
        page = _wrap_route(self._files[INDEX])
        return [web.get("/", page), web.get("/graph", _redirect_to_page), web.get("/favicon.ico", icon), *file_routes]


async def _redirect_to_page(request: web.Request) -> web.Response:
    """The link that an alert carries, as Prometheus makes it; relative, for a proxy may have put a prefix before it."""
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
