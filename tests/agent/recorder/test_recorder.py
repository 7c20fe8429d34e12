"""The flight recorder: what comes back, what damage does to it, and how much there is of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.commands.recorder import command
from agent.recorder.format import MAGIC, iter_payloads, pack_heading, pack_rows, parse_record, unpack_rows
from agent.recorder.recorder import Recorder, RetentionLimits, read_recording
from collectors import Sample, counter, gauge
from rules.history.history import History
from rules.history.rows import Heading, Rows
from rules.promql import compile as promql

HOUSE = Path(__file__).parents[3]
START = 1_700_000_000_000
SECOND = 1000
MINUTE = 60 * SECOND
HOT = gauge("hot", "Heat.")
WORK = counter("work_total", "Work.")


class Host:
    """One process after another that samples each second and records."""

    def __init__(self, folder: Path, limits: RetentionLimits | None = None) -> None:
        self.folder = folder
        self.limits = limits or RetentionLimits()
        self.now_ms = START
        self.work = 0.0
        self.begin()

    def begin(self) -> int:
        self.history = History(60 * MINUTE)
        self.recorder = Recorder(self.folder, self.limits)
        replayed = self.recorder.replay(self.history, self.now_ms, collectors={"heat"}, others={"rules:x"})
        return replayed.rows

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_ms += SECOND
            self.work += 2.0
            self.history.record("heat", self.now_ms, [Sample(HOT, (("dimm", "1"),), self.now_ms / 7), work(self.work)])
            self.append()

    def append(self) -> None:
        self.recorder.flush_if_due(self.history, self.now_ms)
        assert self.recorder.wait(20)

    def step(self, delta_ms: int) -> None:
        self.now_ms += delta_ms
        self.history.shift(delta_ms)
        self.recorder.shift(delta_ms)

    def end(self) -> None:
        self.recorder.close(self.history, self.now_ms)

    def asked(self, text: str) -> list[float]:
        return promql(text).evaluate_at(self.history, self.now_ms).values.tolist()


def work(value: float) -> Sample:
    return Sample(WORK, (), value)


def seen(rows: Iterable[Rows]) -> dict[tuple[str, str], list[tuple[int, bytes]]]:
    """Every reading, bit by bit, by group and series."""
    found: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
    for each in rows:
        for column, metric in enumerate(each.heading.metrics):
            series = found.setdefault((each.heading.group, f"{metric.name}{each.heading.labels[column]}"), [])
            for row, at_ms in enumerate(each.times.tolist()):
                if each.present is None or each.present[column, row]:
                    series.append((at_ms, each.values[column, row].tobytes()))
    return found


_TIMES = st.lists(st.integers(1, 10**7), min_size=1, max_size=12).map(lambda steps: START + np.cumsum(steps))


@given(st.data(), _TIMES, st.integers(1, 6), st.booleans())
def test_a_block_gives_back_every_bit(data: st.DataObject, times: np.ndarray, columns: int, holes: bool) -> None:
    """Values of any bits, NaN payloads too, at any times, with and without gaps."""
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
    """A rate over five minutes answers right after a restart; the time away is a gap, and nothing is live in it."""
    host = Host(tmp_path / "recorder")
    host.tick(300)
    host.end()
    host.now_ms += 10 * SECOND
    assert host.begin() == 300
    assert host.asked("hot") == []
    assert host.history.is_silent("heat")
    host.work += 20.0
    host.tick()

    assert host.asked("rate(work_total[5m])") == [pytest.approx(2.0)]
    assert host.asked("count_over_time(work_total[5m])") == [290.0]
    assert not host.history.is_silent("heat")


def test_a_kill_loses_the_last_seconds_only(tmp_path: Path) -> None:
    """Without any ending, what is lost is less than what one flush waits for."""
    host = Host(tmp_path / "recorder")
    host.tick(123)
    kept = times(read_recording(host.folder, 5 * MINUTE))

    assert kept == list(range(START + SECOND, kept[-1] + 1, SECOND))
    assert host.now_ms - kept[-1] < host.limits.flush
    assert host.begin() == len(kept)


def times(rows: Iterable[Rows]) -> list[int]:
    return sorted({at_ms for each in rows for at_ms in each.times.tolist()})


def test_groups_that_are_no_more_stay_on_disk(tmp_path: Path) -> None:
    """Only the sampling groups there are now come back; the others can still be read."""
    host = Host(tmp_path / "recorder")
    for number in range(6):
        host.history.record("gone", host.now_ms + number, [Sample(HOT, (), 1.0)])
        host.history.record("rules:x", host.now_ms + number, [Sample(HOT, (("rule", "x"),), 1.0)])
    host.tick(6)
    host.begin()

    assert host.history.get_value("hot") is None
    assert {labels for _, labels, *_ in host.history.latest()} == set()
    assert host.history.series_count() == 3
    assert not host.history.is_silent("rules:x")
    assert ("gone", "hot()") in seen(read_recording(host.folder, MINUTE))


def test_older_rows_are_thinned_out(tmp_path: Path) -> None:
    """Behind a quarter of an hour one row in fifteen seconds is left, bit by bit what was measured; ends stay."""
    limits = RetentionLimits(full=2 * MINUTE, full_segment=30 * SECOND, thin=10 * MINUTE, thin_segment=2 * MINUTE)
    host = Host(tmp_path / "recorder", limits)
    host.tick(300)
    silent_ms = host.now_ms + 1
    host.history.silence("heat", silent_ms)
    host.now_ms += 10 * SECOND
    host.append()
    host.now_ms += MINUTE
    host.tick(300)
    assert silent_ms in times(read_recording(host.folder, 60 * MINUTE))
    host.tick(400)
    every = times(read_recording(host.folder, 60 * MINUTE))
    full = [at_ms for at_ms in every if at_ms > host.now_ms - limits.full + limits.flush]
    thin = [at_ms for at_ms in every if at_ms <= host.now_ms - limits.full - limits.full_segment - limits.flush]
    readings = seen(read_recording(host.folder, 60 * MINUTE))

    assert len(full) >= (limits.full - 2 * limits.flush) // SECOND
    assert len({at_ms // limits.thin_every for at_ms in thin}) >= len(thin) - 1
    assert limits.thin - MINUTE <= host.now_ms - every[0] <= limits.thin + limits.thin_segment + MINUTE
    assert all(bits == np.float64(at_ms / 7).tobytes() for at_ms, bits in readings["heat", "hot(('dimm', '1'),)"])


def test_a_restart_between_loses_nothing_of_the_day(tmp_path: Path) -> None:
    """What was thinned out by one process is there for the next, once, and goes on being thinned out."""
    limits = RetentionLimits(full=MINUTE, full_segment=20 * SECOND)
    host = Host(tmp_path / "recorder", limits)
    for _ in range(5):
        host.tick(100)
        host.begin()
    slots = [at_ms // limits.thin_every for at_ms in times(read_recording(host.folder, 60 * MINUTE))]

    assert sorted(set(slots)) == list(range(slots[0], slots[-1] + 1))


@pytest.mark.parametrize("step", [3600 * SECOND, -3600 * SECOND])
def test_a_stepped_clock_shifts_what_is_recorded(tmp_path: Path, step: int) -> None:
    """Where the wall clock stepped, all rows come back at the times that they have on the new clock, thin ones too."""
    limits = RetentionLimits(full=MINUTE, full_segment=20 * SECOND)
    host = Host(tmp_path / "recorder", limits)
    host.tick(100)
    host.step(step)
    host.tick(30)
    host.step(step)
    host.tick(130)
    found = times(read_recording(host.folder, 2 * 3600 * SECOND))
    host.begin()

    assert found[0] >= START + 2 * step
    assert max(after - before for before, after in itertools.pairwise(found)) <= limits.thin_every
    assert host.history.extend(Rows(Heading("heat", (), ()), np.array(found), np.zeros((0, len(found))), None)) == 0


def test_a_clock_that_went_back_meanwhile(tmp_path: Path) -> None:
    """Rows that lie ahead of the clock move back, so that the new ones are newer; also for the restart after that."""
    host = Host(tmp_path / "recorder")
    host.tick(60)
    for _ in range(2):
        host.end()
        host.now_ms -= 3600 * SECOND
        assert host.begin() > 0
        host.tick(10)
        assert host.asked("count_over_time(work_total[2m])") != []
        assert max(times(host.history.iter_rows({}))) == host.now_ms

    assert host.asked("count_over_time(work_total[2m])") == [80.0]


def test_the_size_is_bounded(tmp_path: Path) -> None:
    """However much is recorded, the folder has no more than its limit and one flush; the oldest goes first."""
    limits = RetentionLimits(most_bytes=60_000, full=MINUTE, full_segment=20 * SECOND)
    host = Host(tmp_path / "recorder", limits)
    generator = np.random.default_rng(1)
    largest = 0
    host.tick(10)
    for _ in range(400):
        noise = [Sample(HOT, (("n", str(n)),), v) for n, v in enumerate(generator.random(40).tolist())]
        host.history.record("noise", host.now_ms + 500, noise)
        host.tick()
        largest = max(largest, sum(path.stat().st_size for path in host.folder.iterdir()))
    found = times(read_recording(host.folder, 60 * MINUTE))

    assert largest <= limits.most_bytes + 40 * 8 * 2 * 5 + 5000
    assert largest > limits.most_bytes // 2
    assert found[-1] > host.now_ms - limits.flush - SECOND


@pytest.fixture(name="recording", scope="module")
def _recording(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a recording with thin and full segments, a step of the clock and a series that ends."""
    host = Host(tmp_path_factory.mktemp("whole") / "recorder", RetentionLimits(full=MINUTE, full_segment=20 * SECOND))
    host.tick(70)
    host.step(-2 * SECOND)
    host.history.record("rules:x", host.now_ms, [Sample(HOT, (("rule", "x"),), 1.0)])
    host.tick(60)
    host.end()
    return {path.name: path.read_bytes() for path in host.folder.iterdir()}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_invents_a_reading(tmp_path: Path, recording: dict[str, bytes], data: st.DataObject) -> None:
    """Torn or flipped anywhere, or with a file lost: no crash, and every reading is one that was taken."""
    folder = tmp_path / "recorder"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    damaged = dict(recording)
    name = data.draw(st.sampled_from(sorted(damaged)))
    content = bytearray(damaged[name])
    how = data.draw(st.sampled_from(["torn", "flipped", "lost", "grown"]))
    if how == "torn":
        del content[data.draw(st.integers(0, len(content))) :]
    elif how == "flipped":
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "grown":
        content += data.draw(st.binary(min_size=1, max_size=200))
    damaged[name] = bytes(content)
    if how == "lost":
        del damaged[name]
    for path, text in damaged.items():
        (folder / path).write_bytes(text)
    taken = {bits for series in TAKEN for bits in series}
    found = seen(read_recording(folder, 60 * MINUTE))
    history = History(60 * MINUTE)
    recorder = Recorder(folder)
    recorder.replay(history, START + 200 * SECOND, collectors={"heat"}, others={"rules:x"})
    recorder.close(history, START + 200 * SECOND)

    assert all(bits in taken for series in found.values() for _, bits in series)
    assert all(bits in taken for series in seen(history.iter_rows({})).values() for _, bits in series)


TAKEN = (
    {np.float64((START + n * SECOND) / 7).tobytes() for n in range(1, 140)},
    {np.float64(2.0 * n).tobytes() for n in range(1, 140)},
    {np.float64(1.0).tobytes()},
)


def test_a_torn_tail_costs_the_tail(tmp_path: Path, recording: dict[str, bytes]) -> None:
    """What stands before the torn place is used to the last record."""
    folder = tmp_path / "recorder"
    folder.mkdir()
    name = max(recording)
    whole = list(iter_payloads(recording[name]))
    (folder / name).write_bytes(recording[name][:-1])

    assert list(iter_payloads((folder / name).read_bytes())) == whole[:-1]
    assert times(read_recording(folder, MINUTE)) != []


def test_a_damaged_record_costs_itself(recording: dict[str, bytes]) -> None:
    """A flipped bit in one record leaves those behind it readable."""
    content = bytearray(recording[max(recording)])
    content[len(MAGIC) + 20] ^= 1

    assert list(iter_payloads(bytes(content))) == list(iter_payloads(recording[max(recording)]))[1:]


def test_a_file_in_its_place_is_told_once_and_survived(tmp_path: Path) -> None:
    """Where no folder can be, there is one log line; recording goes on when it can."""
    (tmp_path / "recorder").write_text("")
    with capture_logs() as lines:
        host = Host(tmp_path / "recorder")
        host.tick(20)
        (tmp_path / "recorder").unlink()
        host.tick(10)

    assert [line["event"] for line in lines] == ["recording stopped", "recording goes on"]
    assert lines[1]["lost_rows"] == 16
    assert len(times(read_recording(host.folder, MINUTE))) >= 10


FULL_DISK = """
import resource, sys
from pathlib import Path
from structlog.testing import capture_logs
from tests.agent.recorder.test_recorder import Host

host = Host(Path(sys.argv[1]))
with capture_logs() as lines:
    host.tick(61)
    size = max(path.stat().st_size for path in host.folder.iterdir())
    for limit in (size + 7, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        host.tick(20)
print([line["event"] for line in lines], lines[-1]["lost_rows"])
"""


def test_a_full_disk_stops_it_until_there_is_space(tmp_path: Path) -> None:
    """The rows that found no space are a gap; those before and after are whole."""
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path / "recorder")]
    told = subprocess.run(program, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=50)
    found = times(read_recording(tmp_path / "recorder", 5 * MINUTE))

    assert told.stdout == "['recording stopped', 'recording goes on'] 20\n", told.stderr
    assert len(found) == 101 - 20
    assert sorted({after - before for before, after in itertools.pairwise(found)}) == [SECOND, 21 * SECOND]


def test_a_disk_that_hangs_makes_nothing_late(tmp_path: Path) -> None:
    """While a write does not return ticks go on without one more waiting; the next flush catches up."""
    import threading

    host = Host(tmp_path / "recorder")
    free, begun = threading.Event(), threading.Event()
    host.recorder.writer.submit(lambda: (begun.set(), free.wait(20))[0])
    assert begun.wait(20)
    for number in range(12):
        host.history.record("heat", host.now_ms + number * SECOND, [work(float(number))])
        host.recorder.flush_if_due(host.history, host.now_ms + number * SECOND)
    free.set()
    assert host.recorder.wait(20)
    host.recorder.flush_if_due(host.history, host.now_ms + 12 * SECOND)
    assert host.recorder.wait(20)

    assert len(times(read_recording(host.folder, MINUTE))) == 12


def shown(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["show", "--state", str(folder), *options])
    return result.exit_code, result.output


def test_show_prints_a_line_for_each_series(tmp_path: Path) -> None:
    """First, last, how many, least, most and newest; within the time asked for, counted back from the newest."""
    host = Host(tmp_path / "recorder")
    host.tick(61)
    host.end()
    status, told = shown(tmp_path, "--since", "10s")
    heading, *lines = told.splitlines()

    assert status == 0
    assert heading.split() == ["first", "(UTC)", "last", "(UTC)", "readings", "least", "most", "newest", "series"]
    assert lines[1].split() == [
        "2023-11-14",
        "22:14:12.000",
        "2023-11-14",
        "22:14:21.000",
        "10",
        "104",
        "122",
        "122",
        "work_total",
    ]
    assert lines[0].endswith('hot{dimm="1"}')


def test_show_prints_every_reading_of_a_metric(tmp_path: Path) -> None:
    """With --metric each reading has its line, and no other metric any; --json has the values as text."""
    host = Host(tmp_path / "recorder")
    host.tick(3)
    host.end()
    _, told = shown(tmp_path, "--metric", "work_total")
    _, text = shown(tmp_path, "--metric", "work_total", "--json")

    assert [line.split()[2:] for line in told.splitlines()[1:]] == [[f"{n}", "work_total"] for n in (2, 4, 6)]
    values = [[START // 1000 + n + 1, str(2 * n + 2)] for n in range(3)]
    assert json.loads(text) == [{"metric": {"__name__": "work_total"}, "values": values}]


def test_show_says_why_there_is_nothing(tmp_path: Path) -> None:
    """No folder, nothing of that name, and a time that is none are each one sentence and a status."""
    status, told = shown(tmp_path / "none")
    assert (status, "give the agent's state folder with --state" in told) == (1, True)

    host = Host(tmp_path / "recorder")
    host.tick(3)
    host.end()
    assert shown(tmp_path, "--metric", "cold") == (1, "steadytok: nothing is recorded of cold within 1h\n")
    assert shown(tmp_path, "--since", "soon")[0] == 2
