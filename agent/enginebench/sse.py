"""
Server-sent events as engines really send them, from the bytes of a stream to JSON values.

https://html.spec.whatwg.org/multipage/server-sent-events.html. Seen beyond it: comments as signs of life every so many
seconds (llama.cpp, SGLang), `data:` without its space, CRLF, an `error:` field (older llama.cpp), no [DONE] at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

LONGEST_LINE = 16 << 20  # bytes; a stream without an end of line is no stream of events


class StreamError(Exception):
    """What came is no stream of events; one sentence."""


class Events:
    """The events of one stream, fed as its bytes come."""

    def __init__(self) -> None:
        self._left = b""
        self.done = False

    def fed(self, part: bytes) -> Iterator[Any]:
        """The JSON values that this part completes; raises StreamError."""
        *lines, self._left = (self._left + part).split(b"\n")
        if len(self._left) > LONGEST_LINE:
            raise StreamError(f"a line of more than {LONGEST_LINE >> 20} MiB, which is no stream of events")
        for line in lines:
            yield from self._value(line.rstrip(b"\r"))

    def ended(self) -> Iterator[Any]:
        """What a last line without its end still holds."""
        line, self._left = self._left, b""
        yield from self._value(line)

    def _value(self, line: bytes) -> Iterator[Any]:
        field, _, value = line.partition(b":")
        if field not in (b"data", b"error"):
            return  # a comment (empty field name), `event`, `id`, `retry`, or the empty line between events
        value = value.strip()
        if value == b"[DONE]":
            self.done = True
        elif value:
            try:
                decoded = msgspec.json.decode(value)
            except msgspec.DecodeError:
                raise StreamError(f"an event that is not JSON: {value[:80].decode('utf-8', 'replace')!r}") from None
            yield {"error": decoded} if field == b"error" else decoded
