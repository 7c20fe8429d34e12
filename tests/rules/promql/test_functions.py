"""Single functions and aggregations: values computed by hand, or with exact arithmetic."""

from __future__ import annotations

import calendar
import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Labels, Sample, gauge
from rules import promql
from rules.history.history import History
from rules.promql import PromqlError

NOW = 1_700_000_000_000
HEAT = gauge("heat", "Heat.")
BUCKET = gauge("latency_bucket", "Latency.")

CORE = (
    "abs",
    "absent",
    "absent_over_time",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "avg_over_time",
    "ceil",
    "changes",
    "clamp",
    "clamp_max",
    "clamp_min",
    "cos",
    "cosh",
    "count_over_time",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "deg",
    "delta",
    "deriv",
    "exp",
    "first_over_time",
    "floor",
    "hour",
    "idelta",
    "increase",
    "irate",
    "label_join",
    "label_replace",
    "last_over_time",
    "ln",
    "log10",
    "log2",
    "max_over_time",
    "min_over_time",
    "minute",
    "month",
    "pi",
    "predict_linear",
    "present_over_time",
    "quantile_over_time",
    "rad",
    "rate",
    "resets",
    "round",
    "scalar",
    "sgn",
    "sin",
    "sinh",
    "sort",
    "sort_desc",
    "sqrt",
    "stddev_over_time",
    "stdvar_over_time",
    "sum_over_time",
    "tan",
    "tanh",
    "time",
    "timestamp",
    "vector",
    "year",
    "histogram_quantile",
    "histogram_fraction",
)


def record_series(name: str, values: list[float]) -> History:
    """Records one series with a value per second, the last one now."""
    history = History(3_600_000)
    for number, value in enumerate(values):
        history.record("g", NOW - 1000 * (len(values) - 1 - number), [Sample(gauge(name, "A test."), (), value)])
    return history


def record_at_once(values: list[float]) -> History:
    """Records many series with one value each, now."""
    history = History(3_600_000)
    history.record("g", NOW, [Sample(HEAT, (("n", f"{number:04}"),), value) for number, value in enumerate(values)])
    return history


def evaluate(history: History, text: str) -> dict[Labels, float]:
    return dict(promql.compile(text).evaluate_at(history, NOW))


def evaluate_one(history: History, text: str) -> float:
    (value,) = evaluate(history, text).values()
    return value


def test_the_core_is_whole() -> None:
    """The table has all 66 stable functions of floats and the two of classic histograms, and no other."""
    from rules.promql.functions import FUNCTIONS

    assert len(CORE) == 68
    assert sorted(FUNCTIONS) == sorted(CORE)


def exactly(values: list[float]) -> float:
    return float(sum(map(Fraction, values)))


CANCELLING = [1.0, 1e100, 1.0, -1e100]
FINITE = st.lists(st.floats(-1e120, 1e120), min_size=1, max_size=40)


@given(FINITE)
def test_a_sum_is_rounded_once(values: list[float]) -> None:
    """sum and sum_over_time return the number nearest to the exact sum, or its neighbour, whatever cancels."""
    exact = exactly(values)
    bound = 2 * math.ulp(exact) + 1e-28 * max(map(abs, values))

    assert abs(evaluate_one(record_at_once(values), "sum(heat)") - exact) <= bound
    assert abs(evaluate_one(record_series("heat", values), "sum_over_time(heat[1m])") - exact) <= bound


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (CANCELLING, "sum_over_time(heat[1m])", 2),
        (CANCELLING, "avg_over_time(heat[1m])", 0.5),
        (CANCELLING, "min_over_time(sum_over_time(heat[4s])[2s:1s])", 2),
        ([0.1] * 10, "sum_over_time(heat[1m])", 1),
        ([0.1] * 37, "avg_over_time(heat[1m])", 0.1),
        ([0.1] * 37, "stddev_over_time(heat[1m])", 0),
        ([1e308] * 4, "avg_over_time(heat[1m])", 1e308),
        ([1e308] * 4, "sum_over_time(heat[1m])", math.inf),
        ([1.0, math.inf], "avg_over_time(heat[1m])", math.inf),
        ([-math.inf, math.inf], "sum_over_time(heat[1m])", math.nan),
        ([1.0, math.nan], "sum_over_time(heat[1m])", math.nan),
        ([math.nan, 1.0, 1e100, 1.0, -1e100], "sum_over_time(heat[4s])", 2),
        ([5e-324] * 3, "sum_over_time(heat[1m])", 1.5e-323),
        ([1e15, 1e15 + 2, 1e15 + 4], "stdvar_over_time(heat[1m])", 8 / 3),
    ],
)
def test_sums_over_time_are_compensated(values: list[float], text: str, expected: float) -> None:
    """No rounding error appears; NaN and Inf spread as in a plain sum."""
    assert evaluate_one(record_series("heat", values), text) == pytest.approx(expected, rel=1e-15, nan_ok=True)


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (CANCELLING, "sum(heat)", 2),
        (CANCELLING, "avg(heat)", 0.5),
        ([0.1] * 10, "sum(heat)", 1),
        ([0.1] * 37, "avg(heat)", 0.1),
        ([0.1] * 37, "stdvar(heat)", 0),
        ([1e308] * 4, "avg(heat)", 1e308),
        ([1.0, -math.inf], "sum(heat)", -math.inf),
        ([math.inf], "stddev(heat)", math.nan),
        ([math.nan, 3.0], "max(heat)", 3),
        ([math.nan, 3.0], "quantile(0, heat)", math.nan),
        ([3.0, 1.0], "quantile(-0.1, heat)", -math.inf),
    ],
)
def test_aggregates_are_compensated(values: list[float], text: str, expected: float) -> None:
    """Sums over series are as exact as sums over time."""
    assert evaluate_one(record_at_once(values), text) == pytest.approx(expected, rel=1e-15, nan_ok=True)


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_calendar_functions_are_those_of_the_calendar(seconds: int) -> None:
    """From year 1 to 9999 the functions agree with Python's own."""
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    history = record_series("heat", [float(seconds)])

    assert {name: evaluate_one(history, f"{name}(heat)") for name in CORE if name in _CALENDAR} == {
        "minute": date.minute,
        "hour": date.hour,
        "day_of_month": date.day,
        "day_of_week": date.isoweekday() % 7,
        "day_of_year": date.timetuple().tm_yday,
        "days_in_month": calendar.monthrange(date.year, date.month)[1],
        "month": date.month,
        "year": date.year,
    }


_CALENDAR = ("minute", "hour", "day_of_month", "day_of_week", "day_of_year", "days_in_month", "month", "year")


def test_calendar_functions_without_argument_mean_now() -> None:
    """1,700,000,000 is a Tuesday in November 2023."""
    history = History(3_600_000)

    assert [evaluate_one(history, f"{name}()") for name in _CALENDAR] == [13, 22, 14, 2, 318, 30, 11, 2023]
    assert evaluate_one(history, "year(vector(NaN))") == 292277026596


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        ([1.0, 1.0, 2.5], {"1": 2, "2.5": 1}),
        ([1e-7, 1e22, -0.0], {"0.0000001": 1, "10000000000000000000000": 1, "-0": 1}),
        ([math.nan, math.inf, -math.inf, math.nan], {"NaN": 2, "+Inf": 1, "-Inf": 1}),
    ],
)
def test_count_values_writes_out_every_digit(values: list[float], counted: dict[str, float]) -> None:
    """The value becomes a label in Go's 'f' format."""
    counts = evaluate(record_at_once(values), 'count_values("value", heat)')

    assert {dict(labels)["value"]: count for labels, count in counts.items()} == counted


def test_count_values_refuses_what_is_no_label() -> None:
    """An invalid label name is refused, even without series to count."""
    with pytest.raises(PromqlError, match='invalid label name ""'):
        evaluate(record_at_once([]), 'count_values("", heat)')


def record_histogram(counts: dict[str, float]) -> History:
    history = History(3_600_000)
    history.record("g", NOW, [Sample(BUCKET, (("le", bound),), count) for bound, count in counts.items()])
    return history


BUCKETS = {"0": 0.0, "0.1": 5.0, "0.2": 7.0, "1": 11.0, "+Inf": 12.0}


@pytest.mark.parametrize(
    ("lower", "upper", "share"),
    [
        ("0", "0.2", 7 / 12),
        ("0.1", "0.2", 2 / 12),
        ("0.05", "0.1", 2.5 / 12),
        ("0.2", "0.6", 2 / 12),
        ("-1", "0", 0),
        ("-Inf", "Inf", 1),
        ("1", "Inf", 1 / 12),
        ("1", "5", 0),
        ("0.2", "0.2", 0),
        ("0.3", "0.2", 0),
        ("NaN", "1", math.nan),
    ],
)
def test_a_fraction_goes_along_the_bucket(lower: str, upper: str, share: float) -> None:
    """histogram_fraction of a classic histogram is linear within a bucket, and the last bucket has no share."""
    result = evaluate_one(record_histogram(BUCKETS), f"histogram_fraction({lower}, {upper}, latency_bucket)")

    assert result == pytest.approx(share, rel=1e-15, nan_ok=True)


@pytest.mark.parametrize(
    "text", ["histogram_fraction(0, 1, latency_bucket)", "histogram_quantile(0.5, latency_bucket)"]
)
def test_a_histogram_needs_its_last_bucket(text: str) -> None:
    """Without +Inf, or without observations, there is no share and no quantile."""
    assert math.isnan(evaluate_one(record_histogram({"1": 3.0, "2": 5.0}), text))
    assert math.isnan(evaluate_one(record_histogram({"1": 0.0, "+Inf": 0.0}), text))


@pytest.mark.parametrize(
    ("counts", "rank", "quantile"),
    [
        ({"1": 10.0, "2": 9.0, "4": 20.0, "+Inf": 20.0}, 0.75, 3.0),
        ({"1": 10.0, "2": 10.0 + 1e-12, "4": 20.0, "+Inf": 20.0}, 0.5, 1.0),
        ({"1": 10.0, "2": 10.0 - 1e-12, "4": 20.0, "+Inf": 20.0}, 0.75, 3.0),
        ({"-1": 4.0, "1": 8.0, "+Inf": 8.0}, 0.25, -1.0),
        ({"1": 4.0, "+Inf": 8.0}, 0.9, 1.0),
        ({"1": 4.0, "+Inf": 8.0}, 1.5, math.inf),
        ({"1": 4.0}, -1.0, -math.inf),
    ],
)
def test_buckets_are_made_to_ascend(counts: dict[str, float], rank: float, quantile: float) -> None:
    """A lagging bucket is raised, and rounding errors are ignored, as in Prometheus 3."""
    result = evaluate_one(record_histogram(counts), f"histogram_quantile({rank}, latency_bucket)")

    assert result == pytest.approx(quantile, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clamp_min(vector(NaN), Inf)", math.inf),
        ("clamp_max(vector(NaN), -Inf)", -math.inf),
        ("clamp(vector(5), NaN, 3)", math.nan),
        ("1 / sgn(vector(-0.0))", -math.inf),
        ("sgn(vector(NaN))", math.nan),
        ("vector(-Inf) ^ 0.5", math.inf),
        ("round(vector(2.5))", 3),
        ("round(vector(-2.5))", -2),
        ("round(vector(5), -2)", 4),
        ("vector(pi()) / rad(vector(180))", 1),
        ("deg(vector(pi()))", 180),
        ("acosh(vector(0.5))", math.nan),
        ("atanh(vector(1))", math.inf),
        ("vector(1_000) + 1_0", 1010),
    ],
)
def test_elementwise_functions_at_their_edges(text: str, expected: float) -> None:
    """NaN, Inf, signed zero and halves give Go's results."""
    assert evaluate_one(History(3_600_000), text) == pytest.approx(expected, rel=1e-15, nan_ok=True)
