"""Server-sent events, for any cut of the bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.enginebench.sse import MAX_LINE_BYTES, EventParser, StreamError


def read(*parts: bytes) -> tuple[list[Any], bool]:
    """Returns the values of all chunks, and whether [DONE] came."""
    events = EventParser()
    values = [value for part in parts for value in events.feed(part)]
    return [*values, *events.finish()], events.is_done


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2), max_size=5),
    st.sampled_from(["data: ", "data:"]),
    st.sampled_from(["\n\n", "\r\n\r\n"]),
    st.data(),
)
def test_cuts_change_nothing(values: list[dict[str, str]], field: str, end: str, cuts: st.DataObject) -> None:
    """The values do not depend on the cuts of the stream, even in the middle of a character."""
    text = "".join(f"{field}{json.dumps(value, ensure_ascii=False)}{end}" for value in values).encode()
    places = sorted(cuts.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]

    assert read(*parts) == (values, False)


@pytest.mark.parametrize(
    ("stream", "values", "done"),
    [
        (b': ping\n\ndata: {"a": 1}\n\ndata: [DONE]\n\n', [{"a": 1}], True),
        (b'event: message\nid: 7\nretry: 10\ndata: {"a": 1}\n\n', [{"a": 1}], False),
        (b'data: {"a": 1}\n\ndata: {"b": 2}', [{"a": 1}, {"b": 2}], False),
        (b'error: {"code": 500, "message": "no"}\n\n', [{"error": {"code": 500, "message": "no"}}], False),
        (b"\n\ndata:\n\ndata: \n\n", [], False),
    ],
)
def test_what_engines_add(stream: bytes, values: list[Any], done: bool) -> None:
    """Comments, other fields, an end without a blank line, llama.cpp's errors, and empty data."""
    assert read(stream) == (values, done)


def test_what_is_no_stream_is_said() -> None:
    """An event that is not JSON, and a line without end."""
    with pytest.raises(StreamError, match="an event is not JSON: '<html>'"):
        read(b"data: <html>\n")
    with pytest.raises(StreamError, match="a line has more than 16 MiB"):
        read(b"x" * (MAX_LINE_BYTES + 1))
