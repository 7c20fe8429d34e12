"""
Every expression gives what a real Prometheus gives over the same samples.

Prometheus 2 has ranges closed to the left; Prometheus 3, whose semantics are ours, has open ones. No sample and no
subquery step lies on the edge of a window here. No label holds a line feed, which only Prometheus 3 matches with a
dot. So both must agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from collectors import Labels, Sample, gauge
from rules import promql
from rules.history.history import History
from tests.deep.promql_expressions import EXPRESSIONS, REFUSED
from tests.deep.promql_peer import Peer, Stream, prometheus

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

START_MS = 1_700_000_000_137  # no whole second, so never the edge of a window
ROWS, INTERVAL_MS = 300, 5_000
INSTANTS = (1_700_000_333, 1_700_000_993, 1_700_001_493, 1_700_001_663)
RANGE = (1_700_000_103, 1_700_001_503, 20)


class _Point(NamedTuple):
    name: str
    labels: Labels
    group: str


def _points(row: int) -> Iterator[tuple[_Point, float]]:
    """The values of one row; a group that yields none does not sample then, a series that is not there ends."""
    for cpu in range(6):
        reset_at = 90 + 37 * cpu
        grown = (row if row < reset_at else row - reset_at) * (1.7 + cpu) + (5000 + cpu if row < reset_at else 0.25)
        yield _Point("cpu_seconds_total", (("cpu", str(cpu)), ("node", str(cpu % 2))), "main"), grown
    for slot, dimm in enumerate(("A1", "A2", "B1", "B2", 'C"\\é')):
        value = 45 + 20 * math.sin(row / 13 + slot) + slot * 1.25
        yield _Point("temperature", (("dimm", dimm), ("node", str(slot % 2))), "main"), value
    for node in range(2):
        yield _Point("limit", (("node", str(node)),), "main"), 80.0 + 5 * node
        yield _Point("info", (("model", f"m{node}"), ("node", str(node)), ("vendor", "v")), "main"), 1.0
    for index, value in enumerate((math.nan, math.inf, -math.inf, 1.5 * row, -0.0)):
        yield _Point("odd", (("which", str(index)),), "main"), value if row % 7 else 2.0 + index
    for node in range(2):
        for rank, bound in enumerate(("0.1", "0.5", "2.5", "+Inf")):
            served = (row + 1) * (rank + 1) ** 1.5 * (2 + node + math.sin(row / 40))
            yield _Point("latency_bucket", (("le", bound), ("node", str(node))), "main"), math.floor(served)
    if row % 50 < 20 or row % 3 == 0:
        yield _Point("gone", (("a", "1"),), "main"), 1000.0 + row * 2
    if (row // 40) % 2 == 0:
        yield _Point("gone", (("a", "2"),), "main"), 500.0 + row
    if row < 150:
        yield _Point("ended", (), "ended"), 3.0 * row + 10
    if row >= 120:
        yield _Point("late", (), "late"), 100_000.0 + row
    if row % 11 in (0, 3, 4):
        yield _Point("sparse", (("s", "1"),), "sparse"), 900.0 + row * 0.5


def _rows() -> Iterator[tuple[int, dict[_Point, float]]]:
    for row in range(ROWS):
        yield START_MS + row * INTERVAL_MS, dict(_points(row))


@pytest.fixture(scope="module")
def history() -> History:
    """Our memory with all samples."""
    history = History(retention_ms=3_600_000)
    for at_ms, points in _rows():
        groups: dict[str, list[Sample]] = {}
        for point, value in points.items():
            groups.setdefault(point.group, []).append(Sample(gauge(point.name, "A test."), point.labels, value))
        for group, samples in groups.items():
            history.record(group, at_ms, samples)
    return history


def _streams() -> dict[Labels, Stream]:
    streams: dict[Labels, Stream] = {}
    alive: dict[str, set[_Point]] = {}
    for at_ms, points in _rows():
        for point, value in points.items():
            streams.setdefault(_labels(point), []).append((at_ms, value))
        for group in {point.group for point in points}:
            now = {point for point in points if point.group == group}
            for point in alive.get(group, set()) - now:
                streams[_labels(point)].append((at_ms, None))
            alive[group] = now
    return streams


def _labels(point: _Point) -> Labels:
    return (("__name__", point.name), *point.labels)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A Prometheus on loopback that holds the same samples."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), _streams()) as running_peer:
        yield running_peer


def _same(ours: float, theirs: float) -> bool:
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_instant_query_gives_what_prometheus_gives(text: str, history: History, peer: Peer) -> None:
    """Series, labels, values and refusals of instant queries are Prometheus' at every one of several times."""
    for at in INSTANTS:
        expected = peer.instant(text, at)
        try:
            result = list(promql.compile(text, subquery_step_ms=15_000).evaluate_at(history, at * 1000))
        except promql.PromqlError as error:
            assert isinstance(expected, str), f"{text} at {at}: we refuse it: {error}"
            continue

        assert not isinstance(expected, str), f"{text} at {at}: Prometheus refuses it: {expected}"
        assert sorted(labels for labels, _ in result) == sorted(expected), at
        assert [(key, value, expected[key]) for key, value in result if not _same(value, expected[key])] == []
        if text.startswith(("topk", "sort")) and " by " not in text:
            assert [labels for labels, _ in result] == list(expected)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_range_query_gives_what_prometheus_gives(text: str, history: History, peer: Peer) -> None:
    """Series, steps, values and refusals of a range query are Prometheus'."""
    start, end, step = RANGE
    expected = peer.over(text, start, end, step)
    try:
        matrix = promql.compile(text, subquery_step_ms=15_000).evaluate_range(
            history, start * 1000, end * 1000, step * 1000
        )
    except promql.PromqlError as error:
        assert isinstance(expected, str), f"{text}: we refuse it: {error}"
        return

    assert not isinstance(expected, str), expected
    result = {
        labels: {
            int(t) // 1000: float(v)
            for t, v, is_present in zip(matrix.times, values, present, strict=True)
            if is_present
        }
        for labels, values, present in zip(matrix.labels, matrix.values, matrix.present, strict=True)
    }
    assert sorted(result) == sorted(expected)
    for labels, values in expected.items():
        assert sorted(result[labels]) == sorted(values), labels
        assert {at: (result[labels][at], v) for at, v in values.items() if not _same(result[labels][at], v)} == {}


@pytest.mark.parametrize("text", REFUSED)
def test_what_prometheus_refuses_is_refused(text: str, history: History, peer: Peer) -> None:
    """Expressions that are none, or have no value, are an error on both sides."""
    assert isinstance(peer.instant(text, INSTANTS[0]), str)
    with pytest.raises(promql.PromqlError):
        promql.compile(text).evaluate_at(history, INSTANTS[0] * 1000)


def test_the_list_is_long_enough_to_mean_something() -> None:
    """At least a hundred different expressions are compared."""

    assert len(set(EXPRESSIONS)) == len(EXPRESSIONS) > 100
