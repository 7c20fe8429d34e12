"""
One bad part of a machine hides no other, and its loss is seen: for every collector, for each file of its machine.

What a file may take with it is what its absence takes: the readings of the same machine without the file.
"""

from __future__ import annotations

import itertools
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.sampling.partial_loss import PartialLoss
from agent.sampling.passes import CollectionResult, Outcome, ThreadRunner, collect_readings
from agent.sampling.plugins import Collector
from collectors import ABSENT_ERRNOS, Host
from collectors._host import host as door
from tests.agent.sampling.fakes import make_collector
from tests.collectors.test_every_collector import (
    NAMES,
    build_config_arguments,
    damage_files,
    format_series,
    list_excused,
    list_files,
    load_collector,
    read_collector,
    read_expected,
)
from tests.collectors.test_every_collector import fixture_copy as fixture_copy
from tests.depths import keep_fast

SOURCES = [name for name in NAMES if not hasattr(load_collector(name), "AFTER")]
# TimedReader bounds hwmon's reads by chip, with budgets of its own: tests/collectors/test_hwmon.py has its stuck chip.
WATCHED = [name for name in SOURCES if name != "hwmon"]
# Whose readings are of folders alone, whose configured engine is down then, and whose device is a recording here.
ANSWERING = [name for name in SOURCES if name not in ("topology", "engine", "process", "ipmi")]
PASSES = 5  # until a loss counts
SEVERAL = {"cpufreq": 7}  # passes more for a collector that reads some files only in every sixth pass
PASSES_UNTIL_REREAD = 61  # hwmon reads limits in every 30th pass, node_meminfo watermarks in every 60th
NOT_UTF_8 = b"caf\xe9 \x01\xff\n"


def bind(name: str) -> Collector:
    module, extra = load_collector(name), build_config_arguments(name, configured=True)
    return make_collector(name, collect=lambda host: module.collect(host, *extra))


def run_pass(collector: Collector, host: Host) -> CollectionResult:
    return collect_readings(collector.name, lambda: collector.collect(host), host, 0.0)


def strip_excused(lines: set[str], name: str, file: str) -> set[str]:
    excused = list_excused(name, [file])
    return {line for line in lines if line.replace("{", " ").split()[0] not in excused}


def find_hidden(name: str, root: Path, file: str, beside: set[str]) -> set[str]:
    """Returns the readings that a machine without the file gives and `beside` lacks."""
    with damage_files(root, [file], "gone"):
        without = format_series(read_collector(name, root).samples) & format_series(read_expected(name))
    return strip_excused(without - beside, name, file)


@contextmanager
def replace_content(path: Path, content: bytes) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_that_answers_not_there_is_absent(name: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error that means absence takes what a missing file takes: no reading more, and no failure."""
    read_all, errnos = door.read_all, itertools.cycle(sorted(ABSENT_ERRNOS))
    for file, errno in zip(list_files(copy), errnos, strict=False):

        def answer(path: str, *rest: object, file: str = file, errno: int = errno) -> bytes:
            if path == str(copy / file):
                raise OSError(errno, os.strerror(errno))
            return read_all(path, *rest)  # type: ignore[arg-type]

        with damage_files(copy, [file], "gone"):
            gone = run_pass(bind(name), Host(copy))
        with monkeypatch.context() as patch:
            patch.setattr(door, "read_all", answer)
            absent = run_pass(bind(name), Host(copy))

        hidden = format_series(gone.samples) & format_series(read_expected(name)) - format_series(absent.samples)
        assert strip_excused(hidden, name, file) == set(), (file, os.strerror(errno))
        if name in ANSWERING:
            assert absent.outcome in (gone.outcome, Outcome.ABSENT), (file, os.strerror(errno))


@pytest.mark.parametrize("name", ANSWERING)
@pytest.mark.parametrize("errno", sorted(ABSENT_ERRNOS), ids=os.strerror)
def test_a_machine_that_answers_not_there_has_not_failed(
    name: str, errno: int, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel whose every file says that the feature is absent is no failing machine, unless the files must exist."""

    def answer(path: str, *_rest: object) -> bytes:
        raise OSError(errno, os.strerror(errno), path)

    monkeypatch.setattr(door, "read_all", answer)
    result = run_pass(bind(name), Host(copy))

    assert result.samples == ()
    assert result.outcome is Outcome.ABSENT or "no such file" in {note.reason for note in result.notes}


@pytest.mark.parametrize("name", SOURCES)
def test_trailing_nuls_change_nothing(name: str, copy: Path) -> None:
    """A text with NULs at its end, as Linux 5.15 ended cpulists, gives exactly what it gives without them."""
    for file in list_files(copy):
        content = (copy / file).read_bytes()
        if b"\0" in content:
            continue  # a table, or strings that end with NULs
        with replace_content(copy / file, content + b"\0"):
            assert format_series(read_collector(name, copy).samples) == format_series(read_expected(name)), file


@pytest.mark.parametrize("name", SOURCES)
def test_a_line_that_is_no_text_hides_no_other(name: str, copy: Path) -> None:
    """One line of binary in a file of many lines takes no reading away, and is noted."""
    for file in list_files(copy):
        content = (copy / file).read_bytes()
        if b"\0" in content or b"\n" not in content.strip():
            continue
        with replace_content(copy / file, content.rstrip(b"\n") + b"\n" + NOT_UTF_8):
            samples, missing = read_collector(name, copy)
        with damage_files(copy, [file], "folder"):
            is_read = read_collector(name, copy).missing

        assert format_series(samples) == format_series(read_expected(name)), file
        assert missing or not is_read, file


@pytest.mark.parametrize("name", WATCHED)
def test_a_read_that_never_returns_hides_no_other(name: str, copy: Path) -> None:
    """A FIFO without a writer, like a scaling_cur_freq that never answers, costs only what its absence costs."""
    collector = bind(name)
    for file in list_files(copy):
        path = copy / file
        with damage_files(copy, [file], "gone"):
            os.mkfifo(path)
            results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()
            runner = ThreadRunner(name, Host(copy), results.put)
            runner.start(collector, 0.0)
            result = await_result(runner, results, file)
            release(path)
            path.unlink()

        assert find_hidden(name, copy, file, format_series(result.samples)) == set(), file
        assert result.notes or not format_series(read_expected(name)) - format_series(result.samples), file


def await_result(runner: ThreadRunner, results: queue.SimpleQueue[CollectionResult], file: str) -> CollectionResult:
    """Returns the pass's result; abandons the read of the FIFO as soon as it is under way."""
    while True:
        try:
            return results.get(timeout=0.002)
        except queue.Empty:
            if runner.path_being_read == file:
                runner.abandon_stuck_read(0.0)


def release(fifo: Path) -> None:
    """Ends the stuck reads of a FIFO."""
    os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("kind", keep_fast(["binary", "huge", "folder", "nuls"], "binary"))
def test_a_partial_loss_is_counted(name: str, kind: str, copy: Path) -> None:
    """Series that vanish when a file becomes unreadable count as missing while the others are still read."""
    collector = bind(name)
    for file in list_files(copy):
        host, loss = Host(copy), PartialLoss()
        loss.record_result(run_pass(collector, host))
        with damage_files(copy, [file], kind):
            results = [run_pass(collector, host) for _ in range(PASSES + SEVERAL.get(name, 0))]
        for result in results:
            loss.record_result(result)

        lost = format_series_names(read_expected(name)) - format_series_names(results[-1].samples)
        if lost and results[-1].outcome is Outcome.OK and results[-1].notes:
            assert loss.missing_series == len(lost), file
        elif results[-1].outcome is Outcome.OK:
            assert loss.missing_series == 0, file


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("is_first", [True, False], ids=["from the first pass", "later"])
def test_what_is_readable_again_is_back(name: str, is_first: bool, copy: Path) -> None:
    """When a damaged file is whole again, all readings come back, whatever a collector remembers."""
    collector, expected = bind(name), format_series_names(read_expected(name))
    for file in list_files(copy):
        host, loss = Host(copy), PartialLoss()
        if not is_first:
            loss.record_result(run_pass(collector, host))
        with damage_files(copy, [file], "binary"):
            for _ in range(1 + SEVERAL.get(name, 0)):
                loss.record_result(run_pass(collector, host))
        for _ in range(PASSES_UNTIL_REREAD):
            result = run_pass(collector, host)
            loss.record_result(result)
            missing = expected - format_series_names(result.samples)
            if not missing and not loss.missing_series:
                break

        assert missing == set(), file
        assert loss.missing_series == 0, file


def format_series_names(samples: object) -> set[str]:
    return {line.rsplit(" ", 1)[0] for line in format_series(samples)}  # type: ignore[arg-type]
