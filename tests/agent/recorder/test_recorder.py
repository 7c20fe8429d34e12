"""The flight recorder: restores after a restart, thins out, shifts with the clock, and bounds its size."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.recorder.format import pack_heading, pack_rows, parse_record, unpack_rows
from agent.recorder.recorder import RetentionLimits, read_recording
from collectors import Sample
from rules.history.rows import Heading, Rows
from tests.recorded_host import (
    HOT,
    MINUTE,
    SECOND,
    START,
    RecordedHost,
    collect_readings,
    list_times,
)

_TIMES = st.lists(st.integers(1, 10**7), min_size=1, max_size=12).map(lambda steps: START + np.cumsum(steps))


@given(st.data(), _TIMES, st.integers(1, 6), st.booleans())
def test_a_block_gives_back_every_bit(data: st.DataObject, times: np.ndarray, columns: int, holes: bool) -> None:
    """Values keep every bit, NaN payloads too, at any times, with and without gaps."""
    bits = st.lists(st.integers(0, 2**64 - 1), min_size=columns * len(times), max_size=columns * len(times))
    values = np.array(data.draw(bits), np.uint64).reshape(columns, -1).view(np.float64)
    present = values.view(np.uint64) % 2 == 0 if holes else None
    heading = Heading("g", (HOT,) * columns, tuple((("dimm", str(column)),) for column in range(columns)))
    number = parse_record(pack_heading(7, heading))
    block = parse_record(pack_rows(7, Rows(heading, times, values, present)))
    again = unpack_rows(block, heading, 5)  # type: ignore[arg-type]  # a block it must be, or the test fails

    assert number == (7, heading)
    assert again is not None
    assert again.times.tolist() == (times + 5).tolist()
    assert again.values.tobytes() == values.tobytes()
    assert again.present is None if present is None else again.present.tolist() == present.tolist()


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """A rate over five minutes has a value right after a restart; the time away is a gap without live series."""
    host = RecordedHost(tmp_path / "recorder")
    host.tick(300)
    host.close()
    host.now_ms += 10 * SECOND
    assert host.start() == 300
    assert host.query("hot") == []
    assert host.history.is_silent("heat")
    host.work += 20.0
    host.tick()

    assert host.query("rate(work_total[5m])") == [pytest.approx(2.0)]
    assert host.query("count_over_time(work_total[5m])") == [290.0]
    assert not host.history.is_silent("heat")


def test_a_kill_loses_the_last_seconds_only(tmp_path: Path) -> None:
    """A process that does not end in order loses less than one flush interval."""
    host = RecordedHost(tmp_path / "recorder")
    host.tick(123)
    recorded = list_times(read_recording(host.folder, 5 * MINUTE))

    assert recorded == list(range(START + SECOND, recorded[-1] + 1, SECOND))
    assert host.now_ms - recorded[-1] < host.limits.flush
    assert host.start() == len(recorded)


def test_groups_that_are_no_more_stay_on_disk(tmp_path: Path) -> None:
    """Only current sampling groups are restored; the others can still be read."""
    host = RecordedHost(tmp_path / "recorder")
    for number in range(6):
        host.history.record("gone", host.now_ms + number, [Sample(HOT, (), 1.0)])
        host.history.record("rules:x", host.now_ms + number, [Sample(HOT, (("rule", "x"),), 1.0)])
    host.tick(6)
    host.start()

    assert host.history.get_value("hot") is None
    assert {labels for _, labels, *_ in host.history.get_latest()} == set()
    assert host.history.count_series() == 3
    assert not host.history.is_silent("rules:x")
    assert ("gone", "hot()") in collect_readings(read_recording(host.folder, MINUTE))


def test_older_rows_are_thinned_out(tmp_path: Path) -> None:
    """Older rows are reduced to one in fifteen seconds, with every bit; rows in which series end stay."""
    limits = RetentionLimits(full=2 * MINUTE, full_segment=30 * SECOND, thin=10 * MINUTE, thin_segment=2 * MINUTE)
    host = RecordedHost(tmp_path / "recorder", limits)
    host.tick(300)
    silent_ms = host.now_ms + 1
    host.history.silence("heat", silent_ms)
    host.now_ms += 10 * SECOND
    host.flush()
    host.now_ms += MINUTE
    host.tick(300)
    assert silent_ms in list_times(read_recording(host.folder, 60 * MINUTE))
    host.tick(400)
    all_times = list_times(read_recording(host.folder, 60 * MINUTE))
    full = [at_ms for at_ms in all_times if at_ms > host.now_ms - limits.full + limits.flush]
    thin = [at_ms for at_ms in all_times if at_ms <= host.now_ms - limits.full - limits.full_segment - limits.flush]
    readings = collect_readings(read_recording(host.folder, 60 * MINUTE))

    assert len(full) >= (limits.full - 2 * limits.flush) // SECOND
    assert len({at_ms // limits.thin_every for at_ms in thin}) >= len(thin) - 1
    assert limits.thin - MINUTE <= host.now_ms - all_times[0] <= limits.thin + limits.thin_segment + MINUTE
    assert all(bits == np.float64(at_ms / 7).tobytes() for at_ms, bits in readings["heat", "hot(('dimm', '1'),)"])


def test_a_restart_between_loses_nothing_of_the_day(tmp_path: Path) -> None:
    """Rows that one process thinned out are there once for the next, which continues to thin out."""
    limits = RetentionLimits(full=MINUTE, full_segment=20 * SECOND)
    host = RecordedHost(tmp_path / "recorder", limits)
    for _ in range(5):
        host.tick(100)
        host.start()
    slots = [at_ms // limits.thin_every for at_ms in list_times(read_recording(host.folder, 60 * MINUTE))]

    assert sorted(set(slots)) == list(range(slots[0], slots[-1] + 1))


@pytest.mark.parametrize("step", [3600 * SECOND, -3600 * SECOND])
def test_a_stepped_clock_shifts_what_is_recorded(tmp_path: Path, step: int) -> None:
    """After a shift of the wall clock all rows are restored with shifted times, thin ones too."""
    limits = RetentionLimits(full=MINUTE, full_segment=20 * SECOND)
    host = RecordedHost(tmp_path / "recorder", limits)
    host.tick(100)
    host.shift(step)
    host.tick(30)
    host.shift(step)
    host.tick(130)
    recorded = list_times(read_recording(host.folder, 2 * 3600 * SECOND))
    host.start()

    assert recorded[0] >= START + 2 * step
    assert max(after - before for before, after in itertools.pairwise(recorded)) <= limits.thin_every
    assert (
        host.history.extend(Rows(Heading("heat", (), ()), np.array(recorded), np.zeros((0, len(recorded))), None)) == 0
    )


def test_a_clock_that_went_back_meanwhile(tmp_path: Path) -> None:
    """Rows ahead of the clock move back, so that new rows are newer; also at the restart after that."""
    host = RecordedHost(tmp_path / "recorder")
    host.tick(60)
    for _ in range(2):
        host.close()
        host.now_ms -= 3600 * SECOND
        assert host.start() > 0
        host.tick(10)
        assert host.query("count_over_time(work_total[2m])") != []
        assert max(list_times(host.history.iter_rows({}))) == host.now_ms

    assert host.query("count_over_time(work_total[2m])") == [80.0]


def test_the_size_is_bounded(tmp_path: Path) -> None:
    """The folder never exceeds its limit by more than one flush; the oldest segments are deleted first."""
    limits = RetentionLimits(max_bytes=60_000, full=MINUTE, full_segment=20 * SECOND)
    host = RecordedHost(tmp_path / "recorder", limits)
    generator = np.random.default_rng(1)
    largest = 0
    host.tick(10)
    for _ in range(400):
        noise = [Sample(HOT, (("n", str(n)),), v) for n, v in enumerate(generator.random(40).tolist())]
        host.history.record("noise", host.now_ms + 500, noise)
        host.tick()
        largest = max(largest, sum(path.stat().st_size for path in host.folder.iterdir()))
    recorded = list_times(read_recording(host.folder, 60 * MINUTE))

    assert largest <= limits.max_bytes + 40 * 8 * 2 * 5 + 5000
    assert largest > limits.max_bytes // 2
    assert recorded[-1] > host.now_ms - limits.flush - SECOND
