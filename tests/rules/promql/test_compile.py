"""Expressions that are accepted, and expressions that are refused before they can do harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Sample, gauge
from rules import promql
from rules.history.history import History
from rules.promql import PromqlError
from rules.promql.aggregate import AGGREGATIONS, AGGREGATIONS_WITH_PARAMETER
from rules.promql.binary import OPERATORS
from rules.promql.functions import FUNCTIONS
from rules.promql.plan import ValueKind


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "parse error"),
        ("sum(", "parse error"),
        ("unknown(heat)", "unknown function"),
        ("heat @ -5", "a negative time after @ is not supported"),
        ("heat @\n-5", "a negative time after @ is not supported"),
        ("heat @ 1e20", "out of range"),
        ("heat{a='1' or b='2'}", 'unexpected identifier "or" in label matching, expected "," or "}"'),
        ('{"a","b"}', "metric name must not be set twice"),
        ("{a=''}", "must contain at least one non-empty matcher"),
        ("{a=~'.*'}", "must contain at least one non-empty matcher"),
        ("heat{a=~'('}", "parse error"),
        ("heat{a=~'(?=x)'}", "parse error"),
        ("mad_over_time(heat[5m])", "function mad_over_time() is experimental in Prometheus and not supported"),
        ("histogram_count(heat)", "function histogram_count() is for native histograms, which are not supported"),
        ('histogram_quantiles(heat, "q", 0.5)', "function histogram_quantiles() is experimental in Prometheus"),
        ("limitk(1, heat)", "aggregation limitk() is experimental in Prometheus and not supported"),
        ("rate(heat[5m] smoothed)", "smoothed and anchored are experimental in Prometheus and not supported"),
        ("heat[5m * 2]", "duration expressions are experimental in Prometheus and not supported"),
        ("heat offset (5 * 1m)", "duration expressions are experimental in Prometheus and not supported"),
        ("holt_winters(heat[5m], 0.5, 0.5)", "unknown function"),
        ("heat + " * 201 + "1", "nests deeper than 200 levels"),
        ("(" * 201 + "1" + ")" * 201, "nests deeper than 200 levels"),
        ("(" * 60_000, "nests deeper than 200 levels"),
        ("abs(" * 8000 + "heat" + ")" * 8000, "nests deeper than 200 levels"),
        ("-" * 10_000 + "heat", "nests deeper than 200 levels"),
        ("2 ^ " * 9000 + "2", "nests deeper than 200 levels"),
        ("heat{a='" + "x" * 70_000 + "'}", "longer than 64 KiB"),
    ],
)
def test_what_is_no_expression_for_us_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    """No text that would crash the parser reaches it; errors name the place, and unsupported syntax."""
    with pytest.raises(PromqlError, match=r"^\d+:\d+: parse error: ") as error:
        promql.compile(text)

    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        r"heat{a='@ -5',b=`\d+\"`,c=~`\w+\.\d`}",
        r"label_replace(heat, `a`, `$1\d`, `b`, `(\d+)`)",
        "heat{a='@ -5'}",
        "sum by (anchored) (smoothed{anchored='a'}) / on (smoothed) group_left (anchored) Anchored",
        'heat{a="((((' + "(" * 300 + '"}',
        "heat # a comment with ((( and @ -1\n > 5",
        " or ".join(f"heat{{a='{i}',b!='{i}'}}" for i in range(150)),
        "sum by (a, b) (heat) / on (a, b) group_left (c) limit > 5",
    ],
)
def test_strings_and_comments_do_not_count_as_nesting(text: str) -> None:
    """Only brackets and operators of the expression itself are counted."""

    assert promql.compile(text).text == text


@given(st.text(alphabet="ab({[]}),+-*/=~!<>@\"'`#\\ 1.e5m:offsetorandby", max_size=80))
def test_any_text_is_a_query_or_a_refusal(text: str) -> None:
    """No text leads to anything but a Query or a PromqlError."""
    try:
        query = promql.compile(text)
    except PromqlError as error:
        assert str(error)
    else:
        assert query.text == text


@pytest.mark.parametrize(
    ("text", "kind", "names", "reach_ms"),
    [
        ("heat", "vector", {"heat"}, 300_000),
        ("heat offset 1h", "vector", {"heat"}, 3_900_000),
        ("heat offset -1h", "vector", {"heat"}, 300_000),
        ("rate(heat[2m] offset 1m)", "vector", {"heat"}, 180_000),
        ("max_over_time(rate(heat[2m])[10m:30s] offset 5m)", "vector", {"heat"}, 1_020_000),
        ("sum(heat) / sum(limit)", "vector", {"heat", "limit"}, 300_000),
        ("{__name__='heat',a='b'}", "vector", {"heat"}, 300_000),
        ("{__name__=~'heat'}", "vector", set(), 300_000),
        ("1 + 1", "scalar", set(), 0),
        ("scalar(heat) + time()", "scalar", {"heat"}, 300_000),
        ("-(1)", "scalar", set(), 0),
        ("heat[5m]", "matrix", {"heat"}, 300_000),
        ("heat[5m:1m]", "matrix", {"heat"}, 600_000),
        ("'a'", "string", set(), 0),
    ],
)
def test_a_query_says_what_it_is(text: str, kind: ValueKind, names: set[str], reach_ms: int) -> None:
    """A query knows its kind, its metric names and how far back it reads before it is evaluated."""
    query = promql.compile(text)

    assert (query.kind, query.names, query.reach_ms) == (kind, frozenset(names), reach_ms)


@pytest.mark.parametrize(("start", "end", "step"), [(0, 10, 0), (10, 0, 1), (0, 11_001_000, 1000)])
def test_a_senseless_range_is_refused(start: int, end: int, step: int) -> None:
    """A step of zero, an end before the start, and more than 11,000 steps are errors."""
    with pytest.raises(PromqlError):
        promql.compile("1").evaluate_range(History(1000), start, end, step)


ARGUMENTS = {
    "clamp": "a, 1, 2",
    "histogram_fraction": "0, 1, a",
    "pi": "",
    "histogram_quantile": "0.5, a",
    "clamp_max": "a, 1",
    "clamp_min": "a, 1",
    "label_join": "a, 'b', 'c', 'd'",
    "label_replace": "a, 'b', 'c', 'd', 'e'",
    "predict_linear": "a[5m], 1",
    "quantile_over_time": "0.5, a[5m]",
    "time": "",
    "vector": "1",
}
WINDOWED = {"changes", "delta", "deriv", "idelta", "increase", "irate", "rate", "resets"}


def list_calls() -> Iterator[str]:
    """Yields a call of every function; of what takes a window with a range and with a subquery."""
    for name in FUNCTIONS:
        default = "a[5m]" if name in WINDOWED or name.endswith("_over_time") else "a"
        for inner in dict.fromkeys((default, default.replace("[5m]", "[5m:1m]"))):
            yield f"{name}({ARGUMENTS.get(name, inner)})"


def test_every_function_answers_on_an_empty_history() -> None:
    """No function needs an existing series."""
    for text in list_calls():
        assert len(promql.compile(text).evaluate_at(History(1000), 1_700_000_000_000)) <= 1
        assert len(promql.compile(text).evaluate_range(History(1000), 0, 1_000_000, 100_000)) <= 1


def list_expressions() -> Iterator[str]:
    """Yields every function, aggregation and operator over a series."""
    yield from list_calls()
    for name in AGGREGATIONS:
        parameter = {"count_values": "'v', "}.get(name, "1, " if name in AGGREGATIONS_WITH_PARAMETER else "")
        yield f"{name}({parameter}a)"
    for operator in OPERATORS:
        yield f"a {operator} a"
        yield f"a {operator} on(b) {'' if operator in ('and', 'or', 'unless') else 'group_left() '}a"


def test_everything_answers_at_no_time_at_all() -> None:
    """`[1s:1h]` has a step once an hour: what stands in it is evaluated at no time meanwhile, and gives nothing."""
    history = History(3_600_000)
    for name in ("a", "a_bucket"):
        labels = (("b", "c"), ("le", "+Inf"))
        history.record(name, 1_700_000_000_000, [Sample(gauge(name, "A."), labels, 1.0)])
    for text in list_expressions():
        kind = promql.compile(text).kind
        inner = f"vector({text})" if kind == "scalar" else text
        query = promql.compile(f"max_over_time(({inner})[1s:1h])")
        assert len(query.evaluate_at(history, 1_700_000_000_000)) == 0, text
