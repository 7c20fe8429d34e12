"""
Reads the parameters of a query request (times, durations, matchers, limits) from its address or its form.

The formats and the words of every refusal are Prometheus': https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import email
import email.policy
import math
import re
import urllib.parse
from collections.abc import Callable, Hashable
from datetime import datetime
from email.message import EmailMessage
from typing import TypeVar

from aiohttp import web

from rules.durations import parse_duration

FORM = "application/x-www-form-urlencoded"
MULTIPART_FORM = "multipart/form-data"
FARTHEST_MS = 10**15  # the year 33658; beyond it, arithmetic on times would overflow
MAX_FIELDS = 1000

_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_ESCAPED = re.compile(r"__|_([0-9a-fA-F]{1,5})_", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_EXTREME_TIMES = {"-292273086-05-16T16:47:06Z": -FARTHEST_MS, "292277025-08-18T07:12:54.999999999Z": FARTHEST_MS}

_T = TypeVar("_T")


class BadRequestError(Exception):
    """A parameter is unusable; the message names it."""


class Parameters:
    """The parameters of one request; a form's come before the address's."""

    def __init__(self, pairs: list[tuple[str, str]], *, accepts_gzip: bool = False) -> None:
        self._pairs = pairs
        self.accepts_gzip = accepts_gzip
        """True when the client accepts gzip."""

    @property
    def identity(self) -> Hashable:
        """Equal for two requests that have the same answer."""
        return (tuple(self._pairs), self.accepts_gzip)

    def get_text(self, name: str) -> str:
        """Returns the first value, or an empty string."""
        return next((value for key, value in self._pairs if key == name), "")

    def get_texts(self, name: str) -> list[str]:
        """Returns every value."""
        return [value for key, value in self._pairs if key == name]

    def get_time(self, name: str, default: int | None = None) -> int:
        """Returns a time in ms; raises BadRequestError for an invalid time, or a missing one without default."""
        if default is None:
            return self._parse(name, parse_time)
        return self._parse(name, parse_time, f"Invalid time value for '{name}': ") if self.get_text(name) else default

    def get_duration(self, name: str, default: int | None = None) -> int:
        """Returns a duration in ms; raises BadRequestError."""
        if default is not None and not self.get_text(name):
            return default
        return self._parse(name, parse_step)

    def get_limit(self, name: str = "limit") -> int:
        """Returns the maximum number of results; 0: all."""
        return self._parse(name, _parse_limit) if self.get_text(name) else 0

    def _parse(self, name: str, parse: Callable[[str], _T], prefix: str = "") -> _T:
        try:
            return parse(self.get_text(name))
        except ValueError as error:
            raise BadRequestError(f'invalid parameter "{name}": {prefix}{error}') from None


async def read_parameters(request: web.Request) -> Parameters:
    """Reads the parameters of a GET or a form; raises BadRequestError when there are too many."""
    try:
        form = await _read_form(request) if request.method == "POST" else []
        address = urllib.parse.parse_qsl(request.query_string, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BadRequestError(f"error parsing form values: more than {MAX_FIELDS} fields") from None
    accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    return Parameters([*request.match_info.items(), *form, *address], accepts_gzip=accepts_gzip)


async def _read_form(request: web.Request) -> list[tuple[str, str]]:
    """Reads the fields of a form in either encoding; raises ValueError when there are too many."""
    if request.content_type == FORM:
        return urllib.parse.parse_qsl(await request.text(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    if request.content_type != MULTIPART_FORM:
        return []
    # Not request.multipart(): access control has read the body already, which bounds it.
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode("utf-8", "surrogateescape")
    message = email.message_from_bytes(head + await request.read(), policy=email.policy.HTTP)
    parts = list(message.iter_parts()) if isinstance(message, EmailMessage) and message.is_multipart() else []
    if not parts:
        raise BadRequestError("error parsing form values: the body is not the multipart form that its headers promise")
    if len(parts) > MAX_FIELDS:
        raise ValueError("too many fields")
    fields = ((part.get_param("name", header="content-disposition"), part.get_payload(decode=True)) for part in parts)
    return [
        (name, value.decode("utf-8", "replace"))
        for name, value in fields
        if isinstance(name, str) and isinstance(value, bytes)
    ]


def unescape_name(text: str) -> str:
    """Reads a name of a label that may be escaped for an address: `U__a_2e_b` is a.b, and two underscores are one."""
    if not text.startswith("U__"):
        return text
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else "_", text.removeprefix("U__"))


def parse_time(text: str) -> int:
    """Parses Unix seconds or an RFC 3339 date to milliseconds; raises ValueError."""
    if _FLOAT.fullmatch(text):
        return _clamp_ms(float(text) * 1000)
    if text in _EXTREME_TIMES:
        return _EXTREME_TIMES[text]
    match = _DATE.fullmatch(text)
    try:
        if match is not None:
            seconds = datetime.fromisoformat(match[1] + match[3].upper()).timestamp()
            return _clamp_ms(seconds * 1000 + int((match[2] or "0").ljust(3, "0")[:3]))
    except ValueError:
        pass  # a well-formed date that no calendar has
    raise ValueError(f'cannot parse "{text}" to a valid timestamp')


def _clamp_ms(ms: float) -> int:
    if not math.isfinite(ms):
        raise ValueError("the time is out of range")
    return round(min(max(ms, -FARTHEST_MS), FARTHEST_MS))


def parse_step(text: str) -> int:
    """Parses a number of seconds or a duration such as 1m30s to milliseconds; raises ValueError."""
    if _FLOAT.fullmatch(text):
        ms = float(text) * 1000
        if abs(ms) > FARTHEST_MS:
            raise ValueError(f'cannot parse "{text}" to a valid duration. It overflows int64')
        return int(ms)
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f'cannot parse "{text}" to a valid duration') from None


def _parse_limit(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f'cannot parse "{text}" to a whole number')
    if int(text) < 0:
        raise ValueError("limit must be non-negative")
    return int(text)
