"""Rows are read from one History and appended to another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from collectors import Sample, gauge
from rules.history.history import History
from rules.promql import compile as promql

HOT = gauge("hot", "Heat.")
START = 1_700_000_000_000
HOUR = 3_600_000

Pass = dict[str, float]


def record_passes(passes: list[Pass]) -> History:
    history = History(HOUR)
    for number, values in enumerate(passes):
        samples = [Sample(HOT, (("slot", slot),), value) for slot, value in values.items()]
        history.record("heat", START + 1000 * number, samples)
    return history


def run_queries(history: History, count: int) -> list[list[tuple[object, bytes]]]:
    """Returns the metric at each second, and its values over the last five seconds, bit by bit."""
    results = []
    for text in ("hot", "count_over_time(hot[5s])", "last_over_time(hot[5s])"):
        for second in range(count + 3):
            vector = promql(text).evaluate_at(history, START + 1000 * second)
            results.append(sorted((labels, np.float64(value).tobytes()) for labels, value in vector))
    return results


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats()), min_size=1, max_size=30), st.integers(0, 30))
def test_taken_out_and_in_again_nothing_has_changed(passes: list[Pass], cut: int) -> None:
    """Rows read in two parts and appended to an empty History give every answer as before: values, gaps and ends."""
    first, complete = record_passes(passes[:cut]), record_passes(passes)
    again = History(HOUR)
    parts = [*first.iter_rows({}), *complete.iter_rows({"heat": START + 1000 * (cut - 1)})]
    assert sum(again.extend(rows) for rows in parts) == len(passes)

    assert run_queries(again, len(passes)) == run_queries(complete, len(passes))


def test_rows_not_newer_are_left() -> None:
    """Rows that History has already are not appended twice."""
    history = record_passes([{"a": 1.0}, {"a": 2.0}])
    (rows,) = history.iter_rows({})
    assert history.extend(rows) == 0

    assert list(history.iter_rows({"heat": START + 1000})) == []
    assert [len(rows.times) for rows in history.iter_rows({}, START)] == [1]


def test_a_series_without_a_value_is_not_born() -> None:
    """Rows without a value of a series do not bring the series back, so that it cannot stay for ever."""
    history = record_passes([{"a": 1.0, "b": 1.0}, {"a": 2.0}, {"a": 3.0}])
    (rows,) = history.iter_rows({"heat": START + 1000})
    again = History(HOUR)
    again.extend(rows)

    assert again.count_series() == 1


def test_rows_outlive_what_history_does_next() -> None:
    """The rows are a copy: recording and shifting do not change them."""
    history = record_passes([{"a": 1.0}])
    (rows,) = history.iter_rows({})
    history.record("heat", START + 1000, [Sample(HOT, (("slot", "a"),), 5.0)])
    history.shift(10)

    assert (rows.times.tolist(), rows.values.tolist()) == ([START], [[1.0]])


def test_a_series_of_another_group_is_a_conflict() -> None:
    """A series that belongs to another group by now stays there; the other rows are appended."""
    history = record_passes([{"a": 1.0}])
    other = History(HOUR)
    other.record("other", START + 5000, [Sample(HOT, (("slot", slot),), 7.0) for slot in "ab"])
    for rows in other.iter_rows({}):
        history.extend(rows)

    assert (history.get_value("hot", slot="a"), history.get_value("hot", slot="b"), history.conflicts) == (1.0, 7.0, 1)


def test_heard_is_since() -> None:
    """A metric was sampled since a time if a group that owns it recorded then."""
    history = record_passes([{"a": 1.0}])

    assert history.has_samples_since("hot", START)
    assert not history.has_samples_since("hot", START + 1)
    assert not history.has_samples_since("cold", 0)


def test_what_is_made_of_others_is_heard_when_they_are() -> None:
    """After a restart the agent's own group records at once, but series derived from a slow collector come later."""
    history = History(HOUR)
    history.derive("drift", ["share"])
    history.record("agent", START, [Sample(gauge("drift", "Made of share."), (), 0.5)])

    assert not history.has_samples_since("drift", START)
    history.record("process", START + 15_000, [Sample(gauge("share", "Share."), (), 1.0)])
    assert history.has_samples_since("drift", START)
