"""A snapshot is the History of one moment, whatever History does afterwards, with the same labels."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from collectors import Sample, gauge
from rules import promql
from rules.history.history import History
from rules.promql import PromqlError, QueryBudget

HEAT = gauge("heat", "Heat.")
LOAD = gauge("load", "Load.")
IDENTITY = {"job": "steadytok", "instance": "box"}
EVERYTHING = 'sum_over_time({__name__=~"heat|load"}[1h]) + count_over_time({__name__=~"heat|load"}[1h])'


def _build_history(rows: int, identity: Mapping[str, str] = MappingProxyType({})) -> History:
    history = History(3_600_000, identity=identity)
    for row in range(rows):
        _record(history, row)
    return history


def _record(history: History, row: int) -> None:
    samples = [Sample(HEAT, (("dimm", name),), row + 0.5) for name in "ab"]
    history.record("hwmon", 1000 * (row + 1), samples if row % 7 else samples[:1])
    history.record("stat", 1000 * (row + 1), [Sample(LOAD, (), float(row))])


@pytest.mark.parametrize("rows", [1, 5, 16, 500, 1027, 1028, 1500])
def test_what_comes_later_is_not_in_it(rows: int) -> None:
    """Later passes, with any growth, sealing and sliding of rows, change no answer about the past."""
    history = _build_history(rows)
    snapshot = history.snapshot()
    before = list(promql.compile(EVERYTHING).evaluate_at(history, 1000 * rows))
    snapshots = [
        (labels, list(values)) for labels, _, values in promql.compile("load[1h]").read_samples(snapshot, 3_600_000)
    ]
    for row in range(rows, rows + 1400):
        _record(history, row)
        if row % 300 == 0:
            assert list(promql.compile(EVERYTHING).evaluate_at(snapshot, 1000 * rows)) == before
    history.forget(10**9)

    assert list(promql.compile(EVERYTHING).evaluate_at(snapshot, 1000 * rows)) == before
    assert snapshots == [((("__name__", "load"),), [float(row) for row in range(rows)])]


def test_a_stepped_clock_does_not_move_it() -> None:
    """The times of the snapshot stay, in plain and in sealed rows."""
    history = _build_history(1200)
    snapshot = history.snapshot()
    before = list(promql.compile(EVERYTHING).evaluate_at(snapshot, 1_200_000))
    history.shift(86_400_000)

    assert before
    assert list(promql.compile(EVERYTHING).evaluate_at(snapshot, 1_200_000)) == before
    assert list(promql.compile(EVERYTHING).evaluate_at(history, 1_200_000 + 86_400_000)) == before


def test_a_new_series_is_in_the_next_one() -> None:
    """The index is rebuilt only when the set of series changes."""
    history = _build_history(3)
    first = history.snapshot()
    history.record("new", 3000, [Sample(gauge("extra", "More."), (), 1.0)])

    assert len(promql.compile("extra").evaluate_at(first, 3000)) == 0
    assert len(promql.compile("extra").evaluate_at(history.snapshot(), 3000)) == 1


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("load", {"__name__": "load", **IDENTITY}),
        ('load{job="steadytok",instance=~"b.x"}', {"__name__": "load", **IDENTITY}),
        ('load{job!="steadytok"}', None),
        ('load{instance=""}', None),
        ('{job="steadytok",__name__="load"}', {"__name__": "load", **IDENTITY}),
        ("sum by (job, instance) (heat)", IDENTITY),
        ("sum without (dimm) (heat)", IDENTITY),
        ("sum(heat)", {}),
        ('load * on(job, instance) group_left heat{dimm="b"}', IDENTITY),
        ('own{instance="other"}', {"__name__": "own", "job": "steadytok", "instance": "other"}),
        ('own{instance="box"}', None),
    ],
)
def test_sampled_series_carry_the_identity(text: str, labels: dict[str, str] | None) -> None:
    """Matchers, groupings and joins see the identity; a series with such a label keeps its own."""
    history = _build_history(2, IDENTITY)
    history.record("other", 2000, [Sample(gauge("own", "Its own."), (("instance", "other"),), 1.0)])
    vector = promql.compile(text).evaluate_at(history.snapshot(), 2000)

    assert [dict(each) for each in vector.labels] == ([] if labels is None else [labels])


def test_series_that_the_identity_makes_one_are_one() -> None:
    """A series that already has the identity is not counted twice."""
    history = History(60_000, identity=IDENTITY)
    history.record("a", 1000, [Sample(LOAD, (), 1.0)])
    history.record("b", 1000, [Sample(LOAD, (("instance", "box"),), 2.0)])

    assert len(promql.compile("load").evaluate_at(history.snapshot(), 1000)) == 1


def test_series_are_found_by_time() -> None:
    """Series that ended before or began after the requested times are left out."""
    history = _build_history(100)
    history.record("gone", 1000, [Sample(gauge("gone", "Gone."), (), 1.0)])
    history.record("gone", 2000, [])
    snapshot = history.snapshot()
    everything = {dict(labels)["__name__"] for labels in snapshot.iter_series((), 0, 10**6)}
    late = {dict(labels)["__name__"] for labels in snapshot.iter_series((), 50_000, 10**6)}

    assert everything == {"heat", "load", "gone"}
    assert late == {"heat", "load"}
    assert list(snapshot.iter_series((), -1000, 0)) == []


def test_a_query_holds_no_more_than_it_may() -> None:
    """All parts of an expression count together, so that nesting does not evade the limit."""
    history = _build_history(100)
    query = promql.compile("load + (load + (load + load))")

    assert len(query.evaluate_range(history, 0, 99_000, 1000, QueryBudget(cells=10_000))) == 1
    with pytest.raises(PromqlError, match="would hold more than 300 cells"):
        query.evaluate_range(history, 0, 99_000, 1000, QueryBudget(cells=300))


def test_evaluations_that_share_an_effort_hold_their_arrays_one_after_the_other() -> None:
    """A later evaluation may hold the cells that an earlier one released; the visits of both count together."""
    history = _build_history(100)
    query = promql.compile("sum_over_time(load[50s])")
    effort = QueryBudget(cells=300, visits=12_000)
    for _ in range(2):
        effort.release()
        query.evaluate_range(history, 0, 99_000, 1000, effort)

    with pytest.raises(PromqlError, match="would hold more than"):
        query.evaluate_range(history, 0, 99_000, 1000, QueryBudget(cells=50))
    with pytest.raises(PromqlError, match="would visit more than"):
        for _ in range(9):
            effort.release()
            query.evaluate_range(history, 0, 99_000, 1000, effort)
