"""The parser of engines' metrics, against the reference parser and against any text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collectors._engine.exposition import BodyKind, Point, classify_body, parse_points

NAMES = st.from_regex(r"[a-z_:][a-z0-9_:]{0,12}", fullmatch=True)
LABELS = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.text(max_size=12), max_size=4)
VALUES = st.floats(allow_nan=False, allow_infinity=False)


def _format_line(name: str, labels: dict[str, str], value: float) -> str:
    escaped = {key: text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for key, text in labels.items()}
    pairs = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    return f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}"


@given(NAMES, LABELS, VALUES)
def test_reads_what_the_reference_parser_reads(name: str, labels: dict[str, str], value: float) -> None:
    """Name, labels and value of any sample equal prometheus_client's."""
    text = _format_line(name, labels, value) + "\n"
    sample = next(sample for family in text_string_to_metric_families(text) for sample in family.samples)

    assert parse_points(text, {name: "n"}) == {"n": [Point(sample.labels, sample.value)]}
    assert classify_body(text) is BodyKind.SAMPLES


@given(st.text(), st.text())
def test_anything_else_is_no_error(text: str, name: str) -> None:
    """Any text parses, to points or to none."""
    names = {name: "n", "a": "a", "1": "1"}

    assert classify_body(text) in BodyKind
    assert parse_points(f"{text}\n{name} {text}", names).keys() <= set(names.values())


@pytest.mark.parametrize(
    "line", ["m 1_000", "m 0x10", "m", "m {", 'm{a="b} 1', "m{a=b} 1", "m 1 2 3 4", "m infinite", "m 1,5"]
)
def test_a_value_that_cannot_be_read_spoils_its_metric(line: str) -> None:
    """A sum without one of its parts would be wrong, so the whole metric is unreadable; others are not."""
    assert parse_points(f"m 5\n{line}\nn 7", {"m": "m", "n": "n"}) == {"m": None, "n": [Point({}, 7.0)]}


@pytest.mark.parametrize("value", ["NaN", "nan", "-nan", "+Inf", "-Inf", "inf", "Infinity", "-infinity"])
def test_what_is_not_finite_is_a_value_in_any_case(value: str) -> None:
    """Prometheus reads NaN and infinity in any case, and C++ prints -nan; a text that begins with one is metrics."""
    points = parse_points(f"m {value}", {"m": "m"})

    assert points["m"] is not None
    assert not math.isfinite(points["m"][0].value)
    assert classify_body(f"# HELP m …\nm {value}") is BodyKind.SAMPLES


def test_timestamps_and_exemplars_are_passed_over() -> None:
    """A timestamp or exemplar after a value is ignored."""
    text = 'm{a="1"} 5 1700000000000\nm{a="2"} 6 # {trace="x"} 0.5'

    assert parse_points(text, {"m": "m"}) == {"m": [Point({"a": "1"}, 5.0), Point({"a": "2"}, 6.0)]}


def test_names_are_exact() -> None:
    """`m_total` and `m_by_reason` are not `m`."""
    assert parse_points('m_total 1\nm_by_reason{reason="x"} 2\n# m 3\nm 4', {"m": "m"}) == {"m": [Point({}, 4.0)]}


@pytest.mark.parametrize("text", ["<html>\n<body>Not found</body>", '{"detail":"Not Found"}', "404", "# Title\ntext"])
def test_a_page_is_no_exposition(text: str) -> None:
    """A web page or JSON is not metrics."""
    assert classify_body(text) is BodyKind.OTHER


@pytest.mark.parametrize("text", ["", "\n \n", "# HELP only", "# HELP m …\n# TYPE m gauge\n# EOF\n"])
def test_an_exposition_without_a_sample_is_empty(text: str) -> None:
    """An engine that has just started exposes nothing, or comments alone."""
    assert classify_body(text) is BodyKind.EMPTY
