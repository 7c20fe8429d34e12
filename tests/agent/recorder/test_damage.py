"""Damaged recordings, and disks that are full, missing or hang."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.recorder.format import MAGIC, iter_payloads
from agent.recorder.recorder import Recorder, RetentionLimits, read_recording
from collectors import Sample
from rules.history.history import History
from tests.recorded_host import (
    HOT,
    MINUTE,
    SECOND,
    START,
    RecordedHost,
    build_work_sample,
    collect_readings,
    list_times,
)

HOUSE = Path(__file__).parents[3]


@pytest.fixture(name="recording", scope="module")
def _record_host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a recording with thin and full segments, a clock shift and a series that ends."""
    host = RecordedHost(
        tmp_path_factory.mktemp("whole") / "recorder", RetentionLimits(full=MINUTE, full_segment=20 * SECOND)
    )
    host.tick(70)
    host.shift(-2 * SECOND)
    host.history.record("rules:x", host.now_ms, [Sample(HOT, (("rule", "x"),), 1.0)])
    host.tick(60)
    host.close()
    return {path.name: path.read_bytes() for path in host.folder.iterdir()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_invents_a_reading(tmp_path: Path, recording: dict[str, bytes], data: st.DataObject) -> None:
    """With any torn, flipped or lost data there is no crash, and every reading is one that was recorded."""
    folder = tmp_path / "recorder"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    damaged = dict(recording)
    name = data.draw(st.sampled_from(sorted(damaged)))
    content = bytearray(damaged[name])
    damage = data.draw(st.sampled_from(["torn", "flipped", "lost", "grown"]))
    if damage == "torn":
        del content[data.draw(st.integers(0, len(content))) :]
    elif damage == "flipped":
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif damage == "grown":
        content += data.draw(st.binary(min_size=1, max_size=200))
    damaged[name] = bytes(content)
    if damage == "lost":
        del damaged[name]
    for path, text in damaged.items():
        (folder / path).write_bytes(text)
    recorded_bits = {bits for series in RECORDED_BITS for bits in series}
    readings = collect_readings(read_recording(folder, 60 * MINUTE))
    history = History(60 * MINUTE)
    recorder = Recorder(folder)
    recorder.replay(history, START + 200 * SECOND, collectors={"heat"}, others={"rules:x"})
    recorder.close(history, START + 200 * SECOND)

    assert all(bits in recorded_bits for series in readings.values() for _, bits in series)
    assert all(
        bits in recorded_bits for series in collect_readings(history.iter_rows({})).values() for _, bits in series
    )


RECORDED_BITS = (
    {np.float64((START + n * SECOND) / 7).tobytes() for n in range(1, 140)},
    {np.float64(2.0 * n).tobytes() for n in range(1, 140)},
    {np.float64(1.0).tobytes()},
)


def test_a_torn_tail_costs_the_tail(tmp_path: Path, recording: dict[str, bytes]) -> None:
    """Every record before the torn one is read."""
    folder = tmp_path / "recorder"
    folder.mkdir()
    name = max(recording)
    payloads = list(iter_payloads(recording[name]))
    (folder / name).write_bytes(recording[name][:-1])

    assert list(iter_payloads((folder / name).read_bytes())) == payloads[:-1]
    assert list_times(read_recording(folder, MINUTE)) != []


def test_a_damaged_record_costs_itself(recording: dict[str, bytes]) -> None:
    """A flipped bit in one record leaves the later ones readable."""
    content = bytearray(recording[max(recording)])
    content[len(MAGIC) + 20] ^= 1

    assert list(iter_payloads(bytes(content))) == list(iter_payloads(recording[max(recording)]))[1:]


def test_a_file_in_its_place_is_told_once_and_survived(tmp_path: Path) -> None:
    """A file in place of the folder gives one log line; recording resumes once the file is gone."""
    (tmp_path / "recorder").write_text("")
    with capture_logs() as lines:
        host = RecordedHost(tmp_path / "recorder")
        host.tick(20)
        (tmp_path / "recorder").unlink()
        host.tick(10)

    assert [line["event"] for line in lines] == ["recording stopped", "recording resumed"]
    assert lines[1]["lost_rows"] == 16
    assert len(list_times(read_recording(host.folder, MINUTE))) >= 10


FULL_DISK = """
import resource, sys
from pathlib import Path
from structlog.testing import capture_logs
from tests.recorded_host import RecordedHost

host = RecordedHost(Path(sys.argv[1]))
with capture_logs() as lines:
    host.tick(61)
    size = max(path.stat().st_size for path in host.folder.iterdir())
    for limit in (size + 7, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        host.tick(20)
print([line["event"] for line in lines], lines[-1]["lost_rows"])
"""


def test_a_full_disk_stops_it_until_there_is_space(tmp_path: Path) -> None:
    """The rows without space are a gap; those before and after are complete."""
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path / "recorder")]
    result = subprocess.run(program, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=50)
    recorded = list_times(read_recording(tmp_path / "recorder", 5 * MINUTE))

    assert result.stdout == "['recording stopped', 'recording resumed'] 20\n", result.stderr
    assert len(recorded) == 101 - 20
    assert sorted({after - before for before, after in itertools.pairwise(recorded)}) == [SECOND, 21 * SECOND]


def test_a_disk_that_hangs_makes_nothing_late(tmp_path: Path) -> None:
    """While a write does not return, ticks do not wait; the next flush writes their rows."""
    import threading

    host = RecordedHost(tmp_path / "recorder")
    free, begun = threading.Event(), threading.Event()
    host.recorder.writer_thread.submit(lambda: (begun.set(), free.wait(20))[0])
    assert begun.wait(20)
    for number in range(12):
        host.history.record("heat", host.now_ms + number * SECOND, [build_work_sample(float(number))])
        host.recorder.flush_if_due(host.history, host.now_ms + number * SECOND)
    free.set()
    assert host.recorder.wait(20)
    host.recorder.flush_if_due(host.history, host.now_ms + 12 * SECOND)
    assert host.recorder.wait(20)

    assert len(list_times(read_recording(host.folder, MINUTE))) == 12
