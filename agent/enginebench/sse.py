"""
Parses server-sent events, as engines really send them, from the bytes of a stream to JSON values.

https://html.spec.whatwg.org/multipage/server-sent-events.html. Engines also send keep-alive comments (llama.cpp,
SGLang), `data:` without its space, CRLF, an `error:` field (older llama.cpp), and no [DONE] at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.runtime.http_client import decode_json

MAX_LINE_BYTES = 16 << 20  # a stream without an end of line is no stream of events


class StreamError(Exception):
    """The answer is no stream of events; the message is one sentence."""


class EventParser:
    """Parses the events of one stream as its bytes arrive."""

    def __init__(self) -> None:
        self._buffer = b""
        self.is_done = False

    def feed(self, chunk: bytes) -> Iterator[Any]:
        """Returns the JSON values that a chunk completes; raises StreamError."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise StreamError(f"a line has more than {MAX_LINE_BYTES >> 20} MiB, so the answer is not an event stream")
        for line in lines:
            yield from self._parse_line(line.rstrip(b"\r"))

    def finish(self) -> Iterator[Any]:
        """Returns the value of a last line without a line end; raises StreamError."""
        line, self._buffer = self._buffer, b""
        yield from self._parse_line(line)

    def _parse_line(self, line: bytes) -> Iterator[Any]:
        field, _, value = line.partition(b":")
        if field not in (b"data", b"error"):
            return  # a comment (empty field name), `event`, `id`, `retry`, or the empty line between events
        value = value.strip()
        if value == b"[DONE]":
            self.is_done = True
        elif value:
            try:
                decoded = decode_json(value)
            except ValueError:
                raise StreamError(f"an event is not JSON: {value[:80].decode('utf-8', 'replace')!r}") from None
            yield {"error": decoded} if field == b"error" else decoded
