"""The columnar History, compared with a naive model, and its bookkeeping."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import Metric, Sample, counter, gauge
from rules.history import sample_group
from rules.history.blocks import ABSENT, STALE, VALUE, Block
from rules.history.history import History, estimate_bytes
from rules.matchers import NAME, Matcher
from rules.promql import compile as promql

START = 1_700_000_000_000
HOUR = 3_600_000
HEAT = gauge("heat_celsius", "Heat.")
WORK = counter("work_total", "Work.")


def build_samples(values: dict[str, float], metric: Metric = HEAT) -> list[Sample]:
    return [Sample(metric, (("slot", slot),), value) for slot, value in values.items()]


def to_bits(value: float) -> bytes:
    return struct.pack("<d", value)


def read_window(history: History, slot: str, after: int, until: int) -> list[tuple[int, bytes]]:
    """Returns the values in History of one series with after < time <= until."""
    selection = history.select((Matcher(NAME, "=", HEAT.name), Matcher("slot", "=", slot)))
    cells: list[tuple[int, bytes]] = []
    for part in selection.parts:
        span = part.group.read_span(part.columns, after, until)
        states = np.full(span.values.shape, VALUE) if span.states is None else span.states
        rows = zip(span.times.tolist(), span.values[0].tolist(), states[0].tolist(), strict=True)
        cells += [(at, to_bits(value)) for at, value, state in rows if state == VALUE]
    return cells


class NaiveHistory:
    """A dict of lists; None is a stale mark."""

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[int, float | None]]] = {}
        self.last = 0

    def alive(self) -> list[str]:
        return [slot for slot, rows in self.series.items() if rows[-1][1] is not None]

    def record(self, at: int, values: dict[str, float]) -> bool:
        if at <= self.last:
            return False
        for slot in self.alive():
            if slot not in values:
                self.series[slot].append((at, None))
        for slot, value in values.items():
            self.series.setdefault(slot, []).append((at, value))
        self.last = at
        return True

    def silence(self, at: int) -> None:
        if self.alive():
            self.record(max(at, self.last + 1), {})

    def shift(self, delta: int) -> None:
        self.series = {slot: [(at + delta, value) for at, value in rows] for slot, rows in self.series.items()}
        self.last += delta if self.last else 0

    def window(self, slot: str, after: int, until: int) -> list[tuple[int, bytes]]:
        rows = self.series.get(slot, [])
        return [(at, to_bits(value)) for at, value in rows if value is not None and after < at <= until]

    def newest(self, slot: str, at: int) -> float | None:
        rows = [row for row in self.series.get(slot, []) if row[0] <= at]
        return rows[-1][1] if rows and rows[-1][0] > at - 300_000 else None


VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 45.25, 1e9, 4096.0, float("nan"), float("inf"), 0.1, 1e300, 123.456789]),
    st.integers(-(1 << 40), 1 << 40).map(float),
    st.floats(),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("record"),
            st.sampled_from([0, 1, 1000, 1000, 1000, 60_000, 400_000]),
            st.dictionaries(st.sampled_from("abcdef"), VALUES),
        ),
        st.tuples(st.just("record"), st.just(1000), st.fixed_dictionaries(dict.fromkeys("abc", VALUES))),
        st.tuples(st.just("silence"), st.integers(0, 5000), st.none()),
        st.tuples(st.just("shift"), st.integers(-100_000, 100_000), st.none()),
        st.tuples(st.just("forget"), st.integers(0, 5000), st.none()),
    ),
    min_size=5,
    max_size=60,
)


@given(OPERATIONS, st.data())
@settings(max_examples=300, deadline=None)
def test_windows_and_newest_values_are_those_of_a_dict_of_lists(operations: list[Any], data: st.DataObject) -> None:
    """Sealing, sliding, holes, shifts and reuse of columns never change a value, bit by bit."""
    history, naive, keep, horizon = History(retention_ms=HOUR // 6), NaiveHistory(), HOUR // 6, 0
    with pytest.MonkeyPatch.context() as patch:
        # Small enough that a few passes already grow, seal and slide.
        patch.setattr(sample_group, "_FIRST_ROWS", 2)
        patch.setattr(sample_group, "HEAD_ROWS", 7)
        patch.setattr(sample_group, "SEAL_ROWS", 3)
        for name, step, values in operations:
            at = (naive.last or START) + step
            if name == "record":
                assert history.record("g", at, build_samples(values)) == naive.record(at, values)
            elif name == "silence":
                history.silence("g", at)
                naive.silence(at)
            elif name == "shift":
                history.shift(step)
                naive.shift(step)
                horizon += step
            else:
                history.forget(at)
                horizon = max(horizon, at - keep)

        end = naive.last or START
        after = max(horizon, data.draw(st.integers(end - keep, end)))
        until = data.draw(st.integers(after, end + 1000))
        for slot in "abcdef":
            assert read_window(history, slot, after, until) == naive.window(slot, after, until)
            elements = dict(promql(f'heat_celsius{{slot="{slot}"}}').evaluate_at(history, until))
            newest = naive.newest(slot, until)
            # A value older than the retention may be forgotten or not.
            if newest is not None and naive.window(slot, after, until):
                assert [to_bits(value) for value in elements.values()] == [to_bits(newest)]
            elif newest is None:
                assert not elements


@given(
    st.lists(st.lists(VALUES, min_size=12, max_size=12), min_size=1, max_size=8),
    st.lists(st.sampled_from([ABSENT, VALUE, STALE]), min_size=12, max_size=12),
)
def test_a_sealed_block_gives_back_every_bit(columns: list[list[float]], states: Sequence[int]) -> None:
    """Unsealing returns the same bits of any value, including NaN payloads and -0.0."""
    values = np.array(columns)
    marks = np.full(values.shape, VALUE, np.uint8)
    marks[0] = states
    block = Block(np.arange(12, dtype=np.int64) * 1000 + START, values, marks)
    everything = np.arange(len(values) + 1)
    read_values, read_states = block.read(everything)

    assert read_values[:-1].tobytes() == values.tobytes()
    assert read_states[:-1].tobytes() == marks.tobytes()
    assert (read_states[-1] == ABSENT).all()
    assert block.times().tolist() == [START + 1000 * row for row in range(12)]


@pytest.mark.parametrize("unit", [1024.0, 1.0, 1 / 100, 1 / 1000, 1e-6, 1e-9])
def test_whole_numbers_of_a_unit_are_sealed_small(unit: float) -> None:
    """Whole kibibytes, counts, ticks, milli-, micro- or nano-units take at most a quarter of a float."""
    integers = np.cumsum(np.random.default_rng(1).integers(0, 5000, (50, 128)), axis=1).astype(float)
    values = integers * unit if unit >= 1 else integers / round(1 / unit)
    times = np.arange(128, dtype=np.int64) * 1000
    block = Block(times, values, np.full(values.shape, VALUE, np.uint8))

    assert block.nbytes() < values.nbytes / 4 + 3000
    assert block.read(np.arange(50))[0].tobytes() == values.tobytes()


def test_a_series_that_is_not_sampled_ends_at_once() -> None:
    """A missing reading is missing from its own pass on."""
    history = History(HOUR)
    history.record("g", START, build_samples({"a": 1, "b": 2}))
    history.record("g", START + 1000, build_samples({"a": 3}))

    assert history.get_value("heat_celsius", slot="a") == 3
    assert history.get_value("heat_celsius", slot="b") is None
    assert [(labels, value, at) for _, labels, value, at in history.get_latest()] == [
        ((("slot", "a"),), 3.0, START + 1000)
    ]
    assert len(promql("heat_celsius").evaluate_at(history, START + 999)) == 2
    assert len(promql("heat_celsius").evaluate_at(history, START + 1000)) == 1


def test_a_pass_that_is_not_newer_is_refused() -> None:
    """Time goes forward within a group; an older row is ignored, and `record` returns False."""
    history = History(HOUR)

    assert history.record("g", START, build_samples({"a": 1}))
    assert not history.record("g", START, build_samples({"a": 2}))
    assert history.record("h", START - 5000, build_samples({"a": 2}, WORK))
    assert history.get_value("heat_celsius", slot="a") == 1


def test_a_silent_group_has_no_live_series_until_it_records_again() -> None:
    """Silence ends every series of the group and of no other."""
    history = History(HOUR)
    history.record("g", START, build_samples({"a": 1}))
    history.record("other", START, build_samples({"a": 1}, WORK))
    history.silence("g", START + 3000)

    assert history.is_silent("g")
    assert not history.is_silent("other")
    assert not history.is_silent("unheard")
    assert [metric.name for metric, *_ in history.get_latest()] == ["work_total"]
    history.record("g", START + 4000, build_samples({"a": 5}))
    assert not history.is_silent("g")
    assert history.get_value("heat_celsius", slot="a") == 5


def test_a_series_belongs_to_the_group_that_recorded_it_first() -> None:
    """The same labels from another group, or twice in one pass, are counted as conflicts and dropped."""
    history = History(HOUR)
    history.record("g", START, build_samples({"a": 1}))
    history.record("h", START, [*build_samples({"a": 2, "b": 3}), *build_samples({"b": 4})])

    assert history.get_value("heat_celsius", slot="a") == 1
    assert history.get_value("heat_celsius", slot="b") == 3
    assert history.conflicts == 2


def test_series_beyond_the_cap_are_dropped_and_counted() -> None:
    """The cap refuses new series and keeps the known ones; freed room is used again."""
    history = History(HOUR, series_cap=2)
    history.record("g", START, build_samples({"a": 1, "b": 2, "c": 3}))
    history.record("g", START + 1000, build_samples({"a": 4, "b": 5, "c": 6}))

    assert history.count_series() == 2
    assert history.dropped_series == 1
    assert history.get_value("heat_celsius", slot="b") == 5
    for minute in range(1, 130):
        history.record("g", START + minute * 60_000, build_samples({"a": 1, "c": 3}))
        history.forget(START + minute * 60_000)
    assert history.get_value("heat_celsius", slot="c") == 3


def test_labels_are_the_same_series_in_any_order() -> None:
    """Labels are sorted and empty values dropped before a series is looked up."""
    history = History(HOUR)
    history.record("g", START, [Sample(HEAT, (("b", "2"), ("a", "1"), ("c", "")), 7.0)])

    assert history.get_value("heat_celsius", a="1", b="2") == 7
    assert [labels for labels, _ in promql("heat_celsius").evaluate_at(history, START)] == [
        (("__name__", "heat_celsius"), ("a", "1"), ("b", "2"))
    ]


def test_what_is_forgotten_is_gone() -> None:
    """After the retention without a value a series disappears with its name, and its column is reused."""
    history = History(retention_ms=60_000)
    history.record("g", START, build_samples({"a": 1}, WORK))
    for second in range(1, 200):
        history.record("g", START + second * 1000, build_samples({"b": float(second)}))
        history.forget(START + second * 1000)

    assert history.list_names() == ["heat_celsius"]
    assert history.count_series() == 1
    assert len(read_window(history, "b", 0, START + HOUR)) <= 62
    history.record("g", START + 200_000, build_samples({"b": 1, "new": 2}))
    assert read_window(history, "new", 0, START + HOUR) == [(START + 200_000, to_bits(2))]


def test_a_series_that_ended_is_held_as_long_as_its_values_are() -> None:
    """An ended series can be queried until its last value is older than the retention."""
    history = History(retention_ms=60_000)
    history.record("g", START, build_samples({"a": 1, "b": 1}))
    for second in range(1, 50):
        history.record("g", START + second * 1000, build_samples({"b": 1}))
        history.forget(START + second * 1000)

    assert read_window(history, "a", START - 1, START + HOUR) == [(START, to_bits(1))]
    assert history.count_series() == 2


def test_a_long_history_of_many_series_stays_within_its_estimate() -> None:
    """An hour at one second of constants, counters and gauges takes no more than the estimate printed at the start."""
    history, rng = History(HOUR), np.random.default_rng(2)
    names = [f"{kind}{i}" for kind in ("constant", "counter", "gauge", "noise") for i in range(10)]
    work = np.zeros(10)
    for second in range(3600):
        work += rng.integers(0, 100_000, 10)
        gauges, noise = rng.integers(0, 1 << 24, 10) * 4096.0, rng.normal(size=10)
        row = np.concatenate([np.full(10, 5e9), work, gauges, noise]).tolist()
        history.record("g", START + second * 1000, build_samples(dict(zip(names, row, strict=True))))

    assert history.count_bytes() < estimate_bytes(40, 1000, HOUR)
    assert len(read_window(history, "noise3", START - 1, START + HOUR)) == 3600
