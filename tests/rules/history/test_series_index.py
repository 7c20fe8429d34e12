"""Selections come from postings and are kept: the same as from testing every series, but without the work."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import Labels, Sample, gauge
from rules import promql
from rules.history import series_index
from rules.history.history import History
from rules.history.sample_group import SampleGroup
from rules.history.selection import Selection, SeriesRef
from rules.history.series_index import ChangeLog, SelectionKeeper
from rules.matchers import NAME, Matcher, Matchers

START = 1_700_000_000_000
RETENTION = 60_000

values = st.sampled_from(["", "a", "b", "ab", "10"])
label_sets = st.fixed_dictionaries({"dimm": values, "node": values})
series = st.tuples(st.sampled_from(["heat", "work"]), label_sets)
matchers = st.builds(
    Matcher,
    st.sampled_from(["dimm", "node", "job", "missing", NAME]),
    st.sampled_from(["=", "!=", "=~", "!~"]),
    st.sampled_from(["", "a", "b", "a.*", "b|10", ".*", ".+", "heat", "h.*", "steadytok"]),
)
selectors = st.lists(matchers, min_size=1, max_size=4).map(tuple)


def scan(history: History, chosen: Matchers) -> set[Labels]:
    """Selects by testing every series on its own, as the matchers' definition says."""
    return {
        ref.labels
        for index in history._series.values()
        for ref in index.series.values()
        if all(matcher.test(dict(ref.labels).get(matcher.label, "")) for matcher in chosen)
    }


def build_samples(members: list[tuple[str, dict[str, str]]]) -> list[Sample]:
    unique = {
        (name, tuple(sorted((label, text) for label, text in labels.items() if text))) for name, labels in members
    }
    return [Sample(gauge(name, "Of a test."), labels, 1.0) for name, labels in sorted(unique)]


def list_column_labels(selection: Selection) -> list[Labels]:
    """Returns the labels that the columns of a selection were recorded with, in the order of its rows."""
    columns = [(part.group, column) for part in selection.parts for column in np.arange(part.group.width)[part.columns]]
    return [group.labels[column] for group, column in columns]


def drop_added_labels(labels: Labels) -> Labels:
    return tuple(pair for pair in labels if pair[0] not in (NAME, "job"))


@pytest.fixture(params=[1, 32], ids=["every label indexed", "large names indexed"])
def smallest_index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_index, "MIN_INDEXED_SERIES", request.param)
    monkeypatch.setattr(series_index, "_RECENT_CHANGES", 4)


@pytest.mark.usefixtures("smallest_index")
@settings(max_examples=150, deadline=None)
@given(
    passes=st.lists(st.tuples(st.sampled_from(["one", "two"]), st.lists(series, max_size=12)), min_size=1, max_size=8),
    chosen=st.lists(selectors, min_size=1, max_size=6),
)
def test_a_kept_selection_is_what_a_scan_finds(
    passes: list[tuple[str, list[tuple[str, dict[str, str]]]]], chosen: list[Matchers]
) -> None:
    """Whatever series come, go and come again, in whatever order, and however many at a time."""
    history = History(RETENTION, identity={"job": "steadytok"})
    keepers = [SelectionKeeper() for _ in chosen]
    for number, (group, members) in enumerate(passes):
        now = START + number * 25_000
        history.record(group, now, build_samples(members))
        history.forget(now)
        for each, keeper in zip(chosen, keepers, strict=True):
            selection = history.select(each, keeper)

            assert set(selection.labels) == scan(history, each)
            assert len(set(selection.labels)) == len(selection.labels)
            assert history.select(each).labels == selection.labels
            assert list_column_labels(selection) == [drop_added_labels(labels) for labels in selection.labels]


class CountingHistory(History):
    """Counts how often each selection is made anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made: Counter[Matchers] = Counter()

    def find_selection(self, matchers: Matchers) -> Selection:
        self.made[matchers] += 1
        return super().find_selection(matchers)


@pytest.mark.parametrize("count", [100, 1_023, 1_024, 1_025, 3_000])
def test_any_number_of_queries_selects_once(count: int) -> None:
    """With 1,025 selectors, a cache of 1,024 that was emptied when full made each test every series, each second."""
    history = CountingHistory(RETENTION)
    heat = gauge("heat", "Heat.")
    queries = [promql.compile(f'heat{{dimm="{number}"}}') for number in range(count)]
    for second in range(4):
        history.record("g", START + second * 1000, [Sample(heat, (("dimm", str(n)),), 1.0) for n in range(40)])
        for query in queries:
            query.evaluate_at(history, START + second * 1000)

    assert len(history.made) == count
    assert set(history.made.values()) == {1}


def test_a_new_series_renews_only_the_selections_that_it_belongs_to() -> None:
    """One new series each second made every rule about its metric test all series of it."""
    history = CountingHistory(RETENTION)
    heat = gauge("heat", "Heat.")
    narrow = [promql.compile(f'heat{{dimm="{number}"}}') for number in range(50)]
    wide, unnamed = promql.compile("sum(heat)"), promql.compile('count({__name__=~"h.*", dimm!~"new.*"})')
    for second in range(6):
        samples = [Sample(heat, (("dimm", str(n)),), 1.0) for n in range(50)]
        samples += [Sample(heat, (("dimm", f"new{n}"),), 1.0) for n in range(second)]
        history.record("g", START + second * 1000, samples)
        for query in narrow:
            assert query.evaluate_at(history, START + second * 1000).values.tolist() == [1.0]
        assert wide.evaluate_at(history, START + second * 1000).values.tolist() == [50 + second]
        assert unnamed.evaluate_at(history, START + second * 1000).values.tolist() == [50]

    assert sorted(history.made.values()) == [1] * 51 + [6]


def test_labels_stay_the_same_object_while_their_set_does() -> None:
    """What a plan made from the labels is valid then; a wave of other series, or a new column, does not change that."""
    history, keeper = History(RETENTION), SelectionKeeper()
    heat, chosen = gauge("heat", "Heat."), (Matcher(NAME, "=", "heat"), Matcher("dimm", "=", "a"))
    history.record("g", START, [Sample(heat, (("dimm", "a"),), 1.0)])
    labels = history.select(chosen, keeper).labels
    history.record("g", START + 1000, [Sample(heat, (("dimm", str(n)),), 1.0) for n in range(500)])
    history.record("g", START + 2000, [Sample(heat, (("dimm", "a"),), 1.0)])

    assert history.select(chosen, keeper).labels is labels
    assert history.select(chosen, SelectionKeeper()).labels is labels


def test_a_selection_ends_with_the_queries_that_use_it() -> None:
    """Templates compile a query at each expansion, so what these select must not pile up."""
    history = History(RETENTION)
    history.record("g", START, [Sample(gauge("heat", "Heat."), (), 1.0)])
    queries = [promql.compile("heat + heat"), promql.compile("heat > 0")]
    for query in queries:
        query.evaluate_at(history, START)
    (kept,) = history._kept_selections.values()
    reference = weakref.ref(kept)
    del kept
    for text in ("absent(nothing)", 'count({__name__="nothing", a="b"})', 'heat{a="b"}'):
        promql.compile(text).evaluate_at(history, START)
    gc.collect()

    assert list(history._kept_selections) == [(Matcher(NAME, "=", "heat"),)]
    assert sorted(history._changes_by_name) == ["heat"]
    del query, queries
    gc.collect()
    assert reference() is None


def test_a_query_reads_whatever_history_it_is_evaluated_on() -> None:
    """What it selected from one is not used for another."""
    query = promql.compile("heat")
    for value in (1.0, 2.0, 3.0):
        history = History(RETENTION)
        history.record("g", START, [Sample(gauge("heat", "Heat."), (("n", str(value)),), value)])

        assert query.evaluate_at(history, START).values.tolist() == [value]
        assert query.evaluate_at(history.snapshot(), START).values.tolist() == [value]


def test_postings_follow_series_that_go() -> None:
    """An index without its last series of a value is as if the value had never been."""
    history = History(RETENTION)
    heat = gauge("heat", "Heat.")
    history.record("g", START, [Sample(heat, (("dimm", str(n)), ("node", str(n % 2))), 1.0) for n in range(100)])
    index = history._series["heat"]
    chosen = (Matcher(NAME, "=", "heat"), Matcher("node", "=", "1"), Matcher("dimm", "=", "7"))

    assert [dict(ref.labels)["dimm"] for ref in index.find_candidates(chosen)] == ["7"]
    for second in range(1, 200):
        history.record("g", START + second * 1000, [Sample(heat, (("dimm", "8"), ("node", "0")), 1.0)])
        history.forget(START + second * 1000)

    assert {label: list(values) for label, values in index._postings.items()} == {"node": ["0"], "dimm": ["8"]}
    assert list(index.find_candidates(chosen)) == [index.series[("dimm", "8"), ("node", "0")]]


def test_a_log_knows_how_much_it_has_missed() -> None:
    """Beyond its length it says so, instead of returning a part."""
    log = ChangeLog()
    for number in range(200):
        log.add(SeriesRef(SampleGroup("g"), number, ()))

    assert (len(log.list_since(200) or ()), len(log.list_since(190) or ())) == (0, 10)
    assert log.list_since(10) is None
    log.forget()
    assert (log.count, log.list_since(200), log.list_since(199)) == (200, [], None)


def test_a_series_that_goes_leaves_the_layouts_of_other_groups() -> None:
    """A layout is made from thousands of labels; only those that a column or a refusal concerns are made anew."""
    history = History(RETENTION, series_cap=4)
    heat = gauge("heat", "Heat.")
    for second in range(200):
        now = START + second * 1000
        history.record("steady", now, [Sample(heat, (("of", "steady"),), 1.0)])
        history.record("ending", now, [Sample(heat, (("of", "ending"),), 1.0)] if second < 100 else [])
        if not second:
            history.record("full", now, [Sample(heat, (("of", f"full{n}"),), 1.0) for n in range(3)])
            layout = history._passes["steady"]
        history.forget(now)

    assert history._passes["steady"] is layout
    assert "full" not in history._passes
    history.record("full", START + 200_000, [Sample(heat, (("of", "full2"),), 1.0)])
    assert history.get_value("heat", of="full2") == 1.0
