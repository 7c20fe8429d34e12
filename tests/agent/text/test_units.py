"""Durations, sizes and addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.text.units import (
    format_bytes,
    format_duration,
    format_latency,
    format_span,
    parse_duration,
    parse_size,
    url_origin,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("500ms", 0.5), ("1h30m", 5400), ("2m", 120), ("1d", 86400), ("0", 0), ("1m30s500ms", 90.5)],
)
def test_reads_durations(text: str, seconds: float) -> None:
    """Prometheus' grammar is parsed."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "-5m", "1.5h", "5s1m", "1 s", "1S", "s", "٣s"])
def test_refuses_what_prometheus_refuses(text: str) -> None:
    """A number without unit, a sign, a fraction or units in the wrong order is not a duration."""
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.integers(1, 10**10))
def test_written_reads_back(milliseconds: int) -> None:
    """A formatted duration is parsed as the same one."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-3)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB"), (5 << 52, "20480.0 TiB")]
)
def test_bytes_have_binary_units(count: int, text: str) -> None:
    """Sizes have the largest unit that fits."""
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://hooks.chat.example/services/T0/SECRET?k=SECRET#SECRET", "https://hooks.chat.example"),
        ("http://user:SECRET@127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("http://[::1]:9000/SECRET", "http://[::1]:9000"),
        ("http://[half/SECRET", "http://[half"),
        ("SECRET", "an invalid address"),
    ],
)
def test_an_address_is_told_without_what_may_be_secret(url: str, origin: str) -> None:
    """Only scheme, host and port remain: no user, path, query or fragment."""
    assert url_origin(url) == origin


@pytest.mark.parametrize(("text", "count"), [("0B", 0), ("64MiB", 64 << 20), ("4 GiB", 4 << 30), ("1TiB", 1 << 40)])
def test_a_size_has_its_unit(text: str, count: int) -> None:
    """The unit is binary."""
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "64", "1.5GiB", "-1MiB", "4GB", "4  GiB", "٣MiB", "9" * 13 + "B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """A number alone, a fraction and a decimal unit are refused."""
    with pytest.raises(ValueError, match="expected a size such as 64MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (90000, "25.0 h")],
)
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    """An age is rounded to seconds, minutes or tenths of an hour."""
    assert format_span(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.00321, "3.2 ms"), (0.9999, "999.9 ms"), (1.0, "1.00 s")])
def test_a_latency_has_the_unit_of_its_size(seconds: float, text: str) -> None:
    """Times below a second are in milliseconds."""
    assert format_latency(seconds) == text
