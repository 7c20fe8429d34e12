"""Operators, aggregations, label functions, and Prometheus' errors."""

from __future__ import annotations

import math

import pytest

from collectors import Labels, Sample, counter, gauge
from rules import promql
from rules.history.history import History
from rules.promql import PromqlError

NOW = 1_700_000_000_000
HEAT = gauge("heat", "Heat.")
LIMIT = gauge("limit", "Limit.")
INFO = gauge("info", "Info.")
WORK = counter("work_total", "Work.")


@pytest.fixture(name="history")
def _history() -> History:
    history = History(3_600_000)
    heat = {("0", "a"): 50.0, ("0", "b"): 70.0, ("1", "c"): 90.0}
    samples = [Sample(HEAT, (("dimm", dimm), ("node", node)), value) for (node, dimm), value in heat.items()]
    samples += [Sample(LIMIT, (("node", node),), 80.0) for node in "01"]
    samples += [Sample(INFO, (("model", "m"), ("node", node)), 1.0) for node in "01"]
    samples += [Sample(WORK, (("path", "a\nb"),), math.nan)]
    history.record("g", NOW, samples)
    return history


def evaluate(history: History, text: str) -> dict[str, float]:
    """Returns the values by the text of their labels."""
    return {format_labels(labels): value for labels, value in promql.compile(text).evaluate_at(history, NOW)}


def format_labels(labels: Labels) -> str:
    return ",".join(f"{name}={value}" for name, value in labels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heat > 60", {"__name__=heat,dimm=b,node=0": 70, "__name__=heat,dimm=c,node=1": 90}),
        ("60 < heat{node='1'}", {"__name__=heat,dimm=c,node=1": 90}),
        ("heat > bool 60", {"dimm=a,node=0": 0, "dimm=b,node=0": 1, "dimm=c,node=1": 1}),
        ("heat{dimm='a'} * 2", {"dimm=a,node=0": 100}),
        ("-heat{dimm='a'}", {"dimm=a,node=0": -50}),
        ("heat > on(node) group_left limit", {"__name__=heat,dimm=c,node=1": 90}),
        ("limit > bool on(node) info", {"node=0": 1, "node=1": 1}),
        ("sum(heat)", {"": 210}),
        ("sum by (node) (heat)", {"node=0": 120, "node=1": 90}),
        ("avg without (dimm) (heat)", {"node=0": 60, "node=1": 90}),
        ("max(heat) - on() min(heat)", {"": 40}),
        ("count(heat > 60)", {"": 2}),
        ("topk(1, heat)", {"__name__=heat,dimm=c,node=1": 90}),
        ("bottomk by (node) (1, heat)", {"__name__=heat,dimm=a,node=0": 50, "__name__=heat,dimm=c,node=1": 90}),
        ("stdvar by (node) (heat)", {"node=0": 100, "node=1": 0}),
        ("stddev by (node) (heat < 60 or heat > 80)", {"node=0": 0, "node=1": 0}),
        ("(limit > 1000) * on() info", {}),
        ("min by (node) (heat)", {"node=0": 50, "node=1": 90}),
        ("group(heat)", {"": 1}),
        ("quantile(0.5, heat)", {"": 70}),
        ("heat * on(node) group_left(model) info{node='1'}", {"dimm=c,model=m,node=1": 90}),
        ("info{node='1'} * on(node) group_right(model) heat", {"dimm=c,model=m,node=1": 90}),
        ("heat and on(node) limit{node='1'}", {"__name__=heat,dimm=c,node=1": 90}),
        ("heat unless on(node) limit{node='0'}", {"__name__=heat,dimm=c,node=1": 90}),
        ("limit{node='0'} or limit", {"__name__=limit,node=0": 80, "__name__=limit,node=1": 80}),
        ("nothing_there", {}),
        ("sum(nothing_there)", {}),
        ("absent(nothing_there{a='b'})", {"a=b": 1}),
        ("absent(heat)", {}),
        ("label_replace(limit{node='0'}, 'x', 'n$1', 'node', '(.*)')", {"__name__=limit,node=0,x=n0": 80}),
        ("label_join(limit{node='0'}, 'x', '-', 'node', 'node')", {"__name__=limit,node=0,x=0-0": 80}),
        ("count(work_total{path=~'a.b'})", {"": 1}),
        ("scalar(limit{node='0'}) + 1", {"": 81}),
        ("vector(time())", {"": NOW / 1000}),
        ("1 + 2 * 3 ^ 2", {"": 19}),
        ("-2 ^ 2", {"": -4}),
        ("7 % -3", {"": 1}),
        ("1 == bool 1", {"": 1}),
        ("clamp(heat{dimm='a'}, 60, 40)", {}),
        ("round(heat{dimm='a'} / 8, 0.5)", {"dimm=a,node=0": 6.5}),
        ("work_total == work_total", {}),
        ("work_total != bool work_total", {"path=a\nb": 1}),
    ],
)
def test_an_expression_gives_exactly_these_series(history: History, text: str, expected: dict[str, float]) -> None:
    """Labels, metric names and values are Prometheus'."""

    assert evaluate(history, text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("limit * on() info", "found duplicate series for the match group {} on the right hand-side"),
        ("heat * on(node) limit", "many-to-one matching must be explicit (group_left/group_right)"),
        ("limit * on(node) group_left heat", "many-to-many matching not allowed"),
        ("heat * on(node) group_left(dimm) label_replace(limit,'dimm','x','node','.*')", "grouping labels must ensure"),
        ("{__name__=~'limit|info',model=''} * 2 or label_replace(heat,'dimm','','dimm','.*')", "the same labelset"),
        ("rate({__name__=~'heat|nothing'}[5m]) + {__name__=~'heat|limit'}[5m]", "parse error"),
        ("heat[5m]", 'invalid expression type "range vector"'),
        ("'text'", 'invalid expression type "string"'),
        ("topk(0 / 0, heat)", "Parameter value is NaN"),
        ("topk(1e300, heat)", "overflows int64"),
        ("label_replace(heat, '', '', '', '')", "invalid destination label name in label_replace(): "),
        ("label_replace(heat, 'x', '', 'dimm', '(')", "invalid regular expression in label_replace(): ("),
        ("label_join(heat, 'x', '', '')", "invalid source label name in label_join(): "),
    ],
)
def test_a_refusal_says_what_prometheus_says(history: History, text: str, sentence: str) -> None:
    """Ambiguous matches, duplicate label sets and wrong parameters are errors in Prometheus' own words."""
    with pytest.raises(PromqlError) as error:
        evaluate(history, text)

    assert sentence in str(error.value)


def test_one_side_may_change_its_series_over_time(history: History) -> None:
    """Two series of one match group are no error while they are never present together."""
    history.record("g", NOW + 1000, [Sample(INFO, (("model", "other"), ("node", "0")), 2.0), Sample(LIMIT, (), 1.0)])
    matrix = promql.compile("sum by (node) (info) * on(node) group_left(model) info").evaluate_range(
        history, NOW, NOW + 1000, 1000
    )
    rows = {
        format_labels(labels): present.tolist() for labels, present in zip(matrix.labels, matrix.present, strict=True)
    }

    assert rows == {
        "model=m,node=0": [True, False],
        "model=m,node=1": [True, False],
        "model=other,node=0": [False, True],
    }


def test_series_that_lose_what_tells_them_apart_are_joined_over_time() -> None:
    """Series that differ only by the name, at times that do not overlap, become one series."""
    history = History(3_600_000)
    history.record("g", NOW, [Sample(HEAT, (), 1.0)])
    history.record("g", NOW + 1000, [Sample(LIMIT, (), 2.0)])
    matrix = promql.compile("{__name__=~'heat|limit'} * 10").evaluate_range(history, NOW, NOW + 1000, 1000)

    assert matrix.labels == ((),)
    assert matrix.values.tolist() == [[10, 20]]


def test_a_range_query_is_the_instant_queries_at_its_steps(history: History) -> None:
    """A range query gives the results of instant queries at each of its steps."""
    for second in range(1, 60):
        history.record("g", NOW + second * 1000, [Sample(HEAT, (("dimm", "a"), ("node", "0")), 40.0 + second % 13)])
    for text in ("heat > 45", "sum by (node) (heat)", "topk(1, heat)", "quantile(0.3, heat)", "absent(heat > 45)"):
        query = promql.compile(text)
        matrix = query.evaluate_range(history, NOW, NOW + 60_000, 7000)
        for step, at in enumerate(matrix.times.tolist()):
            elements = {
                format_labels(labels): values[step]
                for labels, values, present in zip(matrix.labels, matrix.values, matrix.present, strict=True)
                if present[step]
            }

            assert {format_labels(labels): value for labels, value in query.evaluate_at(history, at)} == elements


@pytest.mark.parametrize(
    ("rank", "buckets", "expected"),
    [
        (0.5, {"1": 10, "2": 20, "+Inf": 20}, 1.0),
        (0.75, {"1": 10, "2": 20, "+Inf": 20}, 1.5),
        (0.1, {"1": 10, "2": 20, "+Inf": 20}, 0.2),
        (0.9, {"1": 10, "2": 20, "+Inf": 100}, 2.0),
        (0.9, {"10": 90, "2": 20, "+Inf": 100, "none": 7}, 10.0),
        (0.5, {"-1": 10, "2": 10, "+Inf": 10}, -1.0),
        (0.5, {"1": 10, "2": 8, "+Inf": 20}, 1.0),
        (0.5, {"1": 10, "1.0": 10, "+Inf": 40}, 1.0),
        (0.5, {"1": 10, "2": 20}, math.nan),
        (0.5, {"+Inf": 20}, math.nan),
        (0.5, {"1": 0, "+Inf": 0}, math.nan),
        (-1, {"1": 10, "+Inf": 10}, -math.inf),
        (2, {"1": 10, "+Inf": 10}, math.inf),
    ],
)
def test_a_quantile_of_a_histogram_is_linear_within_its_bucket(
    rank: float, buckets: dict[str, float], expected: float
) -> None:
    """Cumulative buckets in any order give what the documentation of histogram_quantile says."""
    history = History(3_600_000)
    history.record("g", NOW, [Sample(WORK, (("a", "x"), ("le", bound)), count) for bound, count in buckets.items()])

    assert evaluate(history, f"histogram_quantile({rank}, work_total)") == pytest.approx({"a=x": expected}, nan_ok=True)


def test_topk_and_sort_promise_an_order(history: History) -> None:
    """An instant query of topk or sort gives its series in the order of their values."""

    assert list(evaluate(history, "sort(heat)").values()) == [50, 70, 90]
    assert list(evaluate(history, "sort_desc(heat)").values()) == [90, 70, 50]
    assert list(evaluate(history, "topk(2, heat)").values()) == [90, 70]


def test_a_result_is_not_fresh_while_a_group_it_rests_on_is_silent(history: History) -> None:
    """Freshness follows the metric name, even after the series themselves are forgotten."""
    query = promql.compile("heat > 5 and on(node) limit")
    elsewhere = promql.compile("alien")

    assert query.is_fresh(history, NOW)
    history.silence("g", NOW + 1000)
    assert not query.is_fresh(history, NOW + 1000)
    assert elsewhere.is_fresh(history, NOW + 1000)
    history.forget(NOW + 10 * 3_600_000)
    assert history.count_series() == 0
    assert not query.is_fresh(history, NOW + 10 * 3_600_000)
    assert not promql.compile("{__name__=~'he.*'}").is_fresh(history, NOW)


def test_a_plan_follows_the_series_that_come_and_go(history: History) -> None:
    """Results cached for a set of labels are computed again when the set of series changes."""
    query = promql.compile("sum by (node) (heat) * on(node) group_left(model) info")

    assert len(query.evaluate_at(history, NOW)) == 2
    samples = [Sample(HEAT, (("dimm", "z"), ("node", "9")), 5.0), Sample(INFO, (("model", "q"), ("node", "9")), 1.0)]
    history.record("g", NOW + 1000, samples)
    elements = {format_labels(labels): value for labels, value in query.evaluate_at(history, NOW + 1000)}
    assert elements == {"model=q,node=9": 5}
