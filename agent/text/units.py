"""Parses and formats durations, sizes and addresses: `500ms`, `1h30m`, `64MiB`, `https://chat.example`."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Mapping

from rules import durations

_ORIGIN = re.compile(r"(\w+://)(?:[^/?#]*@)?([^/?#]+)")

_SHORTEST_SECRET = 6  # characters: shorter pieces of a path, such as `api`, hide nothing and say something

_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(rf"(\d{{1,12}}) ?({'|'.join(_BYTES)})", re.ASCII)


def parse_duration(text: str) -> float:
    """Returns the seconds of a Prometheus duration such as `1s`, `500ms` or `1h30m`. Raises ValueError."""
    try:
        return durations.parse_duration(text) / 1000
    except ValueError:
        raise ValueError(f"expected a duration such as 1s, 500ms or 1h30m, found {text!r}") from None


def format_duration(seconds: float) -> str:
    """Formats seconds in the same grammar, as short as possible, with days as the largest unit."""
    ms = round(seconds * 1000)
    return durations.format_duration(ms, whole_weeks=False) if ms else "0"


def format_span(seconds: float) -> str:
    """Formats an age or a time away with one unit: `45 s`, `12 min`, `3.5 h`; less than zero is 0."""
    rounded = max(0, round(seconds))
    if rounded < 90:
        return f"{rounded} s"
    return f"{round(rounded / 60)} min" if rounded < 5400 else f"{rounded / 3600:.1f} h"


def format_latency(seconds: float) -> str:
    """Formats a measured time in milliseconds, or in seconds from one second on: `3.2 ms`, `1.25 s`."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as `64MiB`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a size such as 64MiB or 4GiB, found {text[:40]!r}")
    return int(match[1]) * _BYTES[match[2]]


def format_bytes(count: float) -> str:
    """Formats a number of bytes with a binary unit: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def url_origin(url: str) -> str:
    """Returns the scheme, host and port of a URL; its user, path and query are secret in many webhooks."""
    match = _ORIGIN.match(url)
    return f"{match[1]}{match[2]}" if match else "an invalid address"


def name_url(url: str) -> str:
    """Names a URL by its origin, and where more belongs to it by a digest: `https://chat.example (1f0c9a2e)`."""
    origin = url_origin(url)
    if url.rstrip("/") == origin:
        return origin
    return f"{origin} ({hashlib.blake2s(url.encode('utf-8', 'replace'), digest_size=4).hexdigest()})"


def hide_secrets(text: str, url: str, headers: Mapping[str, str]) -> str:
    """
    Returns a peer's text without what was sent to it: the URL's user, path and query, and the credential.

    Servers echo them: Express answers an unknown path with `Cannot POST /its/path`.
    """
    parts = urllib.parse.urlsplit(url)
    pieces = [parts.password, parts.username, parts.query, *parts.path.split("/")]
    pieces += [value for _, value in urllib.parse.parse_qsl(parts.query)]
    pieces += headers.get("Authorization", "").split()[1:]
    pieces += [urllib.parse.unquote(piece) for piece in pieces if piece]
    secrets = sorted({piece for piece in pieces if piece and len(piece) >= _SHORTEST_SECRET}, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, "…")
    return text
