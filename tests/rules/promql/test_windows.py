"""Windows over time, compared with Prometheus' documented algorithms, written out sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Sample, counter, gauge
from rules import promql
from rules.history.history import History

START = 1_700_000_000_000
WORK = counter("work_total", "Work.")
HEAT = gauge("heat", "Heat.")

Points = list[tuple[int, float]]


def extrapolate(points: Points, start: int, end: int, *, is_counter: bool, is_rate: bool) -> float | None:
    """Computes extrapolatedRate of promql/functions.go, for floats."""
    if len(points) < 2:
        return None
    result = points[-1][1] - points[0][1]
    if is_counter:
        for (_, before), (_, after) in pairwise(points):
            if after < before:
                result += before
    sampled = (points[-1][0] - points[0][0]) / 1000
    average = sampled / (len(points) - 1)
    to_start, to_end = (points[0][0] - start) / 1000, (end - points[-1][0]) / 1000
    if to_start >= average * 1.1:
        to_start = average / 2
    if is_counter:
        to_zero = sampled * (points[0][1] / result) if result > 0 and points[0][1] >= 0 else to_start
        to_start = min(to_start, to_zero)
    if to_end >= average * 1.1:
        to_end = average / 2
    factor = (sampled + to_start + to_end) / sampled
    return result * (factor / ((end - start) / 1000) if is_rate else factor)


def rate(points: Points, start: int, end: int) -> float | None:
    return extrapolate(points, start, end, is_counter=True, is_rate=True)


def increase(points: Points, start: int, end: int) -> float | None:
    return extrapolate(points, start, end, is_counter=True, is_rate=False)


def delta(points: Points, start: int, end: int) -> float | None:
    return extrapolate(points, start, end, is_counter=False, is_rate=False)


def fit_line(points: Points, origin: int) -> tuple[float, float]:
    """Computes linearRegression: slope per second, and value at the origin."""
    xs, ys = [(at - origin) / 1000 for at, _ in points], [value for _, value in points]
    if all(y == ys[0] for y in ys):
        return 0.0, ys[0]
    n = len(points)
    covariance = math.fsum(x * y for x, y in zip(xs, ys, strict=True)) - math.fsum(xs) * math.fsum(ys) / n
    slope = covariance / (math.fsum(x * x for x in xs) - math.fsum(xs) ** 2 / n)
    return slope, math.fsum(ys) / n - slope * math.fsum(xs) / n


def deriv(points: Points, start: int, end: int) -> float | None:
    return fit_line(points, points[0][0])[0] if len(points) > 1 else None


def predict(points: Points, start: int, end: int) -> float | None:
    if len(points) < 2:
        return None
    slope, now = fit_line(points, end)
    return slope * 30 + now


def variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)


def quantile(values: list[float]) -> float:
    rank = 0.9 * (len(values) - 1)
    low = sorted(values)[math.floor(rank)]
    high = sorted(values)[min(len(values) - 1, math.floor(rank) + 1)]
    return low * (1 - rank + math.floor(rank)) + high * (rank - math.floor(rank))


def apply_to_values(function: Callable[[list[float]], float]) -> Callable[[Points, int, int], float | None]:
    return lambda points, _start, _end: function([value for _, value in points]) if points else None


def neighbours(happened: Callable[[float, float], bool]) -> Callable[[Points, int, int], float | None]:
    return apply_to_values(lambda values: float(sum(happened(a, b) for a, b in pairwise(values))))


def irate(points: Points, start: int, end: int) -> float | None:
    if len(points) < 2:
        return None
    (t1, before), (t2, after) = points[-2:]
    return (after if after < before else after - before) / ((t2 - t1) / 1000)


REFERENCES: dict[str, Callable[[Points, int, int], float | None]] = {
    "rate(work_total[20s])": rate,
    "increase(work_total[20s])": increase,
    "delta(work_total[20s])": delta,
    "irate(work_total[20s])": irate,
    "deriv(work_total[20s])": deriv,
    "predict_linear(work_total[20s], 30)": predict,
    "sum_over_time(work_total[20s])": apply_to_values(math.fsum),
    "avg_over_time(work_total[20s])": apply_to_values(lambda values: math.fsum(values) / len(values)),
    "min_over_time(work_total[20s])": apply_to_values(min),
    "max_over_time(work_total[20s])": apply_to_values(max),
    "count_over_time(work_total[20s])": apply_to_values(lambda values: float(len(values))),
    "last_over_time(work_total[20s])": apply_to_values(lambda values: values[-1]),
    "first_over_time(work_total[20s])": apply_to_values(lambda values: values[0]),
    "present_over_time(work_total[20s])": apply_to_values(lambda values: 1.0),
    "stdvar_over_time(work_total[20s])": apply_to_values(variance),
    "stddev_over_time(work_total[20s])": apply_to_values(lambda values: math.sqrt(variance(values))),
    "quantile_over_time(0.9, work_total[20s])": apply_to_values(quantile),
    "changes(work_total[20s])": neighbours(lambda a, b: a != b),
    "resets(work_total[20s])": neighbours(lambda a, b: b < a),
}

ROWS = st.lists(
    st.tuples(
        st.sampled_from([500, 1000, 1000, 1000, 1300, 4000, 30_000]),
        st.lists(st.one_of(st.none(), st.integers(0, 20), st.floats(0, 100)), min_size=3, max_size=3),
    ),
    min_size=1,
    max_size=40,
)


def record_rows(rows: list[tuple[int, list[float | None]]]) -> tuple[History, dict[str, Points]]:
    history, at = History(3_600_000), START
    model: dict[str, Points] = {str(number): [] for number in range(3)}
    for step, values in rows:
        at += step
        row = {str(number): float(value) for number, value in enumerate(values) if value is not None}
        history.record("g", at, [Sample(WORK, (("n", number),), value) for number, value in row.items()])
        for number, value in row.items():
            model[number].append((at, value))
    return history, model


@pytest.mark.parametrize("text", REFERENCES)
@given(rows=ROWS, back=st.integers(0, 30_000))
def test_a_window_function_gives_what_its_documented_algorithm_gives(
    text: str, rows: list[tuple[int, list[float | None]]], back: int
) -> None:
    """With holes, resets and uneven steps, at one time and at several, each series has its own window (t-20s, t]."""
    history, model = record_rows(rows)
    end = START + sum(step for step, _ in rows) - back
    matrix = promql.compile(text).evaluate_range(history, end, end + 9000, 3000)
    results = {
        (dict(labels)["n"], int(at)): float(value)
        for labels, values, present in zip(matrix.labels, matrix.values, matrix.present, strict=True)
        for at, value, is_present in zip(matrix.times, values, present, strict=True)
        if is_present
    }
    expected = {}
    for at in range(end, end + 9001, 3000):
        for number, points in model.items():
            value = REFERENCES[text]([point for point in points if at - 20_000 < point[0] <= at], at - 20_000, at)
            if value is not None:
                expected[number, at] = value
        once = {dict(labels)["n"]: value for labels, value in promql.compile(text).evaluate_at(history, at)}

        assert once == pytest.approx({n: v for (n, t), v in results.items() if t == at}, rel=1e-9, abs=1e-9)
    assert results == pytest.approx(expected, rel=1e-6, abs=1e-6)


def evaluate_one(text: str, values: list[float], *, step: int = 1000, late: int = 0) -> list[float]:
    history = History(3_600_000)
    for row, value in enumerate(values):
        history.record("g", START + row * step, [Sample(HEAT, (), value)])
    return [value for _, value in promql.compile(text).evaluate_at(history, START + (len(values) - 1) * step + late)]


def test_a_window_is_open_to_the_left() -> None:
    """A sample as old as the window is long is outside; one that is a millisecond younger is inside."""

    assert evaluate_one("count_over_time(heat[3s])", [1, 2, 3, 4]) == [3]
    assert evaluate_one("count_over_time(heat[3001ms])", [1, 2, 3, 4]) == [4]


def test_an_instant_vector_looks_back_less_than_five_minutes() -> None:
    """A value five minutes old is outside the lookback."""

    assert evaluate_one("heat", [7], late=299_999) == [7]
    assert evaluate_one("heat", [7], late=300_000) == []


def test_the_lookback_is_the_same_at_every_step_of_a_range_query() -> None:
    """Several steps in one evaluation have the same lookback as a single one."""
    history = History(3_600_000)
    history.record("g", START, [Sample(HEAT, (), 7.0)])
    matrix = promql.compile("heat").evaluate_range(history, START - 100_000, START + 300_000, 100_000)

    assert matrix.present[0].tolist() == [False, True, True, True, False]


def test_nan_is_an_ordinary_value_of_a_window() -> None:
    """NaN is counted and spoils a sum; min and max skip it; NaN after NaN is no change."""
    nan = math.nan

    assert evaluate_one("count_over_time(heat[1m])", [1, nan, 3]) == [3]
    assert math.isnan(evaluate_one("sum_over_time(heat[1m])", [1, nan, 3])[0])
    assert evaluate_one("max_over_time(heat[1m])", [1, nan, 3]) == [3]
    assert math.isnan(evaluate_one("max_over_time(heat[1m])", [nan, nan])[0])
    assert evaluate_one("changes(heat[1m])", [1, nan, nan, 3]) == [2]


def test_the_mean_of_large_values_does_not_overflow() -> None:
    """The mean of finite values is finite even if their sum is not; infinity stays infinite."""

    assert evaluate_one("avg_over_time(heat[1m])", [1.5e308, 1.5e308]) == pytest.approx([1.5e308])
    assert evaluate_one("avg_over_time(heat[1m])", [math.inf, 1]) == [math.inf]


def test_a_subquery_has_steps_at_multiples_of_its_step() -> None:
    """`[4s:2s]` has the two even seconds of the last four, whatever the evaluation time is."""

    assert evaluate_one("sum_over_time(heat[4s:2s])", [0, 1, 2, 3, 4, 5, 6]) == [4 + 6]
    assert evaluate_one("sum_over_time(heat[4s:2s])", [0, 1, 2, 3, 4, 5, 6], late=999) == [4 + 6]
    assert evaluate_one("sum_over_time(vector(time())[4s:2s])", [0] * 7) == [2 * START / 1000 + 10]


def test_a_subquery_without_a_step_in_its_range_is_empty() -> None:
    """`[1s:1h]` has a step once an hour, and whatever stands in it is evaluated at no time at all meanwhile."""
    inners = ("heat", "max_over_time(heat[2s])", "max_over_time(heat[2s:1s] @ end())", 'count_values("v", heat)')
    for inner in inners:
        assert evaluate_one(f"max_over_time(({inner})[1s:1h])", [1, 2, 3]) == []


def test_sealed_rows_are_seen_through_any_window() -> None:
    """A window that reaches beyond the plain rows gives the same as one within them."""
    values = [float(row % 97) for row in range(3000)]

    assert evaluate_one("sum_over_time(heat[3000s])", values) == [sum(values)]
    assert evaluate_one("heat offset 2500s", values) == [values[499]]
    assert evaluate_one("count_over_time(heat[10s] offset 2500s)", values) == [10]
    assert evaluate_one("resets(heat[2990s])", values) == [sum(b < a for a, b in pairwise(values[10:]))]
