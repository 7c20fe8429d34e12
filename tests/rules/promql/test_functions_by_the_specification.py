"""
The functions that no Prometheus at hand has, against worked examples of the written specification.

https://prometheus.io/docs/prometheus/latest/querying/functions/. Debian's Prometheus 2.42 checks all others in
tests/deep/test_promql_generated.py and tests/deep/test_promql_against_prometheus.py.
"""

from __future__ import annotations

import math

import pytest

from collectors import Sample, counter, gauge
from rules import promql
from rules.history.history import History
from rules.promql.functions import FUNCTIONS

NOW = 1_700_000_000_000
IN_PROMETHEUS_2_42 = {
    *("abs", "absent", "absent_over_time", "acos", "acosh", "asin", "asinh", "atan", "atanh", "avg_over_time"),
    *("ceil", "changes", "clamp", "clamp_max", "clamp_min", "cos", "cosh", "count_over_time", "day_of_month"),
    *("day_of_week", "day_of_year", "days_in_month", "deg", "delta", "deriv", "exp", "floor", "histogram_quantile"),
    *("hour", "idelta", "increase", "irate", "label_join", "label_replace", "last_over_time", "ln", "log10", "log2"),
    *("max_over_time", "min_over_time", "minute", "month", "pi", "predict_linear", "present_over_time"),
    *("quantile_over_time", "rad", "rate", "resets", "round", "scalar", "sgn", "sin", "sinh", "sort", "sort_desc"),
    *("sqrt", "stddev_over_time", "stdvar_over_time", "sum_over_time", "tan", "tanh", "time", "timestamp", "vector"),
    "year",
}

# 200 requests: 20 up to 0.1 s, 80 up to 0.2 s, 60 up to 0.5 s, 30 up to 2 s, 10 slower.
REQUESTS = {"0.1": 20.0, "0.2": 100.0, "0.5": 160.0, "2": 190.0, "+Inf": 200.0}
# 40 differences: 4 up to -1, 12 up to 0, 16 up to 1, 8 larger.
DIFFERENCES = {"-1": 4.0, "0": 16.0, "1": 32.0, "+Inf": 40.0}
APDEX = {"0.1": 90.0, "0.5": 99.0, "+Inf": 100.0}
ENDLESS = {"+Inf": 10.0}

FRACTIONS = [
    # The first bucket goes from 0 to 0.1, since its bound is greater than 0.
    (APDEX, "0", "0.1", 90 / 100),
    (APDEX, "0", "0.5", 99 / 100),
    (REQUESTS, "0", "0.1", 20 / 200),
    (REQUESTS, "0", "0.05", 10 / 200),
    (REQUESTS, "0.025", "0.075", 10 / 200),
    (REQUESTS, "0.05", "0.1", 10 / 200),
    (REQUESTS, "-5", "0.1", 20 / 200),
    (REQUESTS, "-Inf", "0.1", 20 / 200),
    (REQUESTS, "-5", "0", 0),
    (REQUESTS, "-5", "-1", 0),
    # Bounds at buckets' bounds, and within buckets.
    (REQUESTS, "0", "0.2", 100 / 200),
    (REQUESTS, "0.1", "0.5", 140 / 200),
    (REQUESTS, "0.15", "0.35", (40 + 30) / 200),
    (REQUESTS, "0.05", "1.25", (10 + 80 + 60 + 15) / 200),
    # No observation of the last bucket lies below any finite value.
    (REQUESTS, "0", "1000", 190 / 200),
    (REQUESTS, "2", "+Inf", 10 / 200),
    (REQUESTS, "5", "+Inf", 10 / 200),
    (REQUESTS, "-Inf", "+Inf", 1),
    (ENDLESS, "0", "1", 0),
    (ENDLESS, "0", "+Inf", 1),
    # A first bucket that ends at or below 0 begins at -Inf, where nothing can be interpolated.
    (DIFFERENCES, "-Inf", "-1", 4 / 40),
    (DIFFERENCES, "-Inf", "0", 16 / 40),
    (DIFFERENCES, "-0.5", "0.5", (6 + 8) / 40),
    (DIFFERENCES, "0", "+Inf", 24 / 40),
    # What is no interval.
    (REQUESTS, "0.2", "0.2", 0),
    (REQUESTS, "0.5", "0.2", 0),
    (REQUESTS, "NaN", "1", math.nan),
    (REQUESTS, "0", "NaN", math.nan),
    ({"1": 5.0}, "0", "1", math.nan),
    ({"1": 0.0, "+Inf": 0.0}, "0", "1", math.nan),
]

WINDOWS = [
    # Windows are open to the left: at 60 s, [30s] begins after the sample at 30 s.
    ("first_over_time(heat_celsius[30s])", 44),
    ("first_over_time(heat_celsius[31s])", 43),
    ("first_over_time(heat_celsius[1h])", 41),
    ("first_over_time(heat_celsius[10s])", 46),
    ("first_over_time(heat_celsius[30s] offset 20s)", 42),
    ("first_over_time((heat_celsius > 43)[1m:10s])", 44),
]

EXAMPLES = {"histogram_fraction": FRACTIONS, "first_over_time": WINDOWS}


def test_every_function_has_a_prometheus_or_an_example() -> None:
    """A function that neither the peer of the deep tests nor an example checks is one that nothing checks."""
    assert sorted(FUNCTIONS) == sorted(IN_PROMETHEUS_2_42 | set(EXAMPLES))
    assert IN_PROMETHEUS_2_42.isdisjoint(EXAMPLES)


@pytest.mark.parametrize(("counts", "lower", "upper", "share"), FRACTIONS)
def test_histogram_fraction(counts: dict[str, float], lower: str, upper: str, share: float) -> None:
    """The share of observations between two values, by the interpolation of histogram_quantile (prometheus#17367)."""
    history = History(3_600_000)
    bucket = counter("took_seconds_bucket", "Took.")
    history.record("g", NOW, [Sample(bucket, (("le", bound),), count) for bound, count in counts.items()])
    vector = promql.compile(f"histogram_fraction({lower}, {upper}, took_seconds_bucket)").evaluate_at(history, NOW)

    assert vector.values.tolist() == [pytest.approx(share, rel=1e-12, abs=1e-15, nan_ok=True)]


@pytest.mark.parametrize("rank", [0.05, 0.1, 0.3, 0.5, 0.6, 0.8, 0.9])
@pytest.mark.parametrize("counts", [REQUESTS, APDEX])
def test_a_fraction_and_a_quantile_undo_each_other(counts: dict[str, float], rank: float) -> None:
    """Both interpolate alike, so the share of observations up to a quantile is its rank."""
    history = History(3_600_000)
    bucket = counter("took_seconds_bucket", "Took.")
    history.record("g", NOW, [Sample(bucket, (("le", bound),), count) for bound, count in counts.items()])
    quantile = promql.compile(f"histogram_quantile({rank}, took_seconds_bucket)").evaluate_at(history, NOW).values[0]
    share = promql.compile(f"histogram_fraction(0, {float(quantile)!r}, took_seconds_bucket)").evaluate_at(history, NOW)

    assert share.values.tolist() == [pytest.approx(rank, rel=1e-12)]


@pytest.mark.parametrize(("text", "expected"), WINDOWS)
def test_first_over_time(text: str, expected: float) -> None:
    """The oldest sample of the window; like last_over_time it keeps the name."""
    history = History(3_600_000)
    for second in range(10, 70, 10):
        heat = gauge("heat_celsius", "Heat.")
        history.record("g", NOW + second * 1000, [Sample(heat, (), 40.0 + second / 10)])
    vector = promql.compile(text).evaluate_at(history, NOW + 60_000)

    assert vector.to_dicts() == [({"__name__": "heat_celsius"}, expected)]
