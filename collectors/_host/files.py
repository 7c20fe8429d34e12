"""Reads a whole file or the body of an HTTP GET, up to a maximum size."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

MAX_BYTES = 4 << 20  # bytes; /proc/vmstat has 4 KiB, an exposition of 5,000 series 400 KiB
PAGE = 4096  # bytes; one read of a file in /sys that returns fewer has returned the whole file
CHUNK = 1 << 16  # bytes requested from one read(2); a sysfs attribute has at most one page


def read_all(path: str, whole_below: int, largest: int = MAX_BYTES) -> bytes:
    """Returns the file's bytes. One read of fewer than `whole_below` bytes counts as the whole file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        # seq_files in /proc may return short reads before their end, so only an empty read ends the loop.
        while part := os.read(descriptor, CHUNK):
            parts.append(part)
            size += len(part)
            if size < whole_below:
                return part
            if size > largest:
                raise OSError(0, f"larger than {largest >> 20} MiB")
    finally:
        os.close(descriptor)
    return b"".join(parts)


class _OneServer(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to another path only: an answer from elsewhere would not be the engine's."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Returns the request to the new path; None, which makes the redirect the answer, for another server."""
        if urllib.parse.urlsplit(newurl)[:2] != urllib.parse.urlsplit(req.full_url)[:2]:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class HttpAnswer(NamedTuple):
    """The status and the body of an HTTP answer; of an error the body's beginning."""

    status: int
    text: str


def http_get(url: str, timeout: float, api_key: str | None = None) -> HttpAnswer:
    """Returns the answer to a GET, an error's as well. Raises OSError, ValueError or HTTPException without one."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("expected an http:// or https:// URL")
    request = urllib.request.Request(url)
    if api_key is not None:
        request.add_header("Authorization", f"Bearer {api_key}")
    # No proxy: an engine is on this host or in this rack, and a login shell's http_proxy must not reroute the request.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _OneServer)
    try:
        with opener.open(request, timeout=timeout) as answer:
            body: bytes = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            return HttpAnswer(error.code, error.read(PAGE).decode("utf-8", "replace"))
    if len(body) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return HttpAnswer(200, body.decode("utf-8"))
