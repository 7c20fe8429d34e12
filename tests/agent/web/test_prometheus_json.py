"""Numbers and times in answers and requests keep their exact values."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.web.prometheus_json import (
    MAX_SAMPLES,
    check_size,
    encode_matrix,
    encode_samples,
    encode_vector,
    format_seconds,
    format_value,
)
from agent.web.query_params import FARTHEST_MS, parse_step, parse_time
from agent.web.rules_api import format_date
from rules.numbers import format_scientific
from rules.promql import Matrix, PromqlError

ANY_MS = st.integers(-(10**12), 10**12)


@given(st.floats())
def test_a_value_reads_back_bit_for_bit(number: float) -> None:
    """Numbers look as in Go: no capital exponent, no point without digits, an exponent only where Go writes one."""
    text = format_value(number)

    assert struct.pack("<d", float(text)) == struct.pack("<d", number) or number != number
    assert re.fullmatch(r"NaN|[+-]Inf|-?\d+(\.\d+)?(e[+-]\d\d+)?", text)
    assert ("e" in text) == ((number == number and 0 < abs(number) < 1e-6) or 1e21 <= abs(number) < float("inf"))


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5.960464477539063e-08)
@example(-0.0)
def test_a_value_of_an_alert_reads_back(number: float) -> None:
    """A number in Go's %e has an exponent of two digits."""
    text = format_scientific(number)

    assert float(text) == number
    assert re.fullmatch(r"-?\d(\.\d*[1-9])?e[+-]\d\d+", text)


@given(ANY_MS)
def test_a_time_reads_back(ms: int) -> None:
    """A time is exact to the millisecond, as seconds and as a date."""
    assert parse_time(format_seconds(ms)) == ms
    assert ms < -62_135_596_800_000 or parse_time(format_date(ms)) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("1.5e3", 1_500_000),
        ("-1.0005", -1000),
        ("1e300", FARTHEST_MS),
        ("1970-01-01T00:00:01.9999Z", 1999),
        ("1970-01-01t02:00:00+02:00", 0),
        ("-292273086-05-16T16:47:06Z", -FARTHEST_MS),
    ],
)
def test_times_take_prometheus_forms(text: str, ms: int) -> None:
    """Accepts seconds, dates, and the extreme times that Prometheus' clients send."""
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", ["", " 1", "1_0", "0x1", "inf", "1970-01-01", "1970-01-01 00:00:00Z", "١"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Refuses Python's own number forms and dates without a time."""
    with pytest.raises(ValueError, match="to a valid timestamp"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "ms"), [("15", 15_000), ("0.5", 500), ("1m30s", 90_000), ("500ms", 500), ("-1", -1000)]
)
def test_steps_take_seconds_and_durations(text: str, ms: int) -> None:
    """A bare number is in seconds."""
    assert parse_step(text) == ms


LONG = (("a", "x" * 16_384),)


def test_an_answer_is_bounded_in_characters() -> None:
    """A long label that a thousand series share is one text in memory, and a thousand in an answer."""
    times, values = np.arange(1), np.ones((1_100, 1))
    answers = {
        "vector": lambda count: encode_vector([(LONG, 1.0)] * count, 0),
        "matrix": lambda count: encode_matrix(Matrix((LONG,) * 1_100, times, values, values > 0), range(count)),
        "samples": lambda count: encode_samples([(LONG, times, values[0])] * count),
    }
    for encode in answers.values():
        assert len(encode(1_000)) > 16_000_000
        with pytest.raises(PromqlError, match="the answer has more than 16,777,216 characters; ask for fewer series"):
            encode(1_100)


def test_a_label_set_that_escapes_could_make_too_long_is_refused_before_it_is_encoded() -> None:
    """One encoder call would make six characters of each control character."""
    labels = tuple((f"l{number}", "\x00" * 16_384) for number in range(200))
    with pytest.raises(PromqlError, match="shorter labels"):
        encode_vector([(labels, 1.0)], 0)


def test_an_answer_of_too_many_series_is_refused_before_they_are_sorted() -> None:
    """The check needs the number alone."""
    check_size(MAX_SAMPLES)
    with pytest.raises(PromqlError, match="the answer has 300,001 samples, more than 300,000"):
        check_size(MAX_SAMPLES + 1)
