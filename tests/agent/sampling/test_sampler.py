"""Gather asks when it is due and waits for nobody."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sampling.plugins import (
    COLLECTOR_GROUP,
    Collector,
    DiscoveryError,
    bind_collector,
    find_config_types,
    load_collectors,
)
from agent.sampling.sampler import CollectionResult, CollectorState, Outcome, Sampler, ThreadRunner, collect_readings
from collectors import Host, Reading, Sample, gauge

METRIC = gauge("steadytok_test_value", "A value.")


def collector(name: str = "test", interval: float = 1.0, **more: object) -> Collector:
    settings: dict[str, object] = {
        "description": "",
        "metrics": (METRIC,),
        "collect": lambda host: (),
        "deadline": 0.5,
        "isolated": False,
    }
    return Collector(name=name, interval=interval, **{**settings, **more})  # type: ignore[arg-type]


def ended(name: str, began: float, *, values: int = 1, cpu: float = 0.0, error: str | None = None) -> CollectionResult:
    samples = tuple(Sample(METRIC, (("n", str(n)),), 1.0) for n in range(values))
    return CollectionResult(name, began, 0.01, cpu, samples, (), error)


class HeldLane:
    """A lane whose passes end when the test says so."""

    def __init__(self) -> None:
        self.busy_since: float | None = None
        self.started: list[float] = []

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self.started.append(began)


def test_the_folder_is_the_list() -> None:
    """Every file of collectors/ without an underscore is a collector that can be bound."""
    files = {path.stem for path in (Path(__file__).parents[3] / "collectors").glob("[!_]*.py")}
    found = load_collectors()

    assert set(found) == files
    for name, module in found.items():
        assert bind_collector(module, name, interval=None, deadline=None, config=None).interval > 0


def test_config_types_are_told() -> None:
    """A collector's Config is found beside the collector."""
    types = find_config_types(load_collectors())

    assert types["meminfo"] is None
    assert types["hwmon"] is not None


def test_a_duplicate_name_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's collector may not take the name of one of ours."""
    from importlib.metadata import EntryPoint

    entry = EntryPoint("meminfo", "acme.meminfo", "steadytok.collectors")
    monkeypatch.setattr("agent.sampling.plugins.entry_points", lambda group: [entry])

    with pytest.raises(DiscoveryError, match="two collectors are named 'meminfo'"):
        load_collectors()


def test_a_third_partys_collector_needs_to_be_enabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported only where the configuration enables it, and may be switched off without being imported."""
    from importlib.metadata import EntryPoint

    from agent import configuration

    # A module that fits the contract, under another name, so that nothing need be installed.
    entry = EntryPoint("acme", "collectors.pressure", COLLECTOR_GROUP)
    monkeypatch.setattr("agent.sampling.plugins.entry_points", lambda group: [entry])
    path = tmp_path / "steadytok.yml"
    path.write_text("collectors: {acme: {enabled: true, interval: 5s}}")
    config, found = configuration.load_configuration(path)
    assert [c.interval for c in configuration.bind_collectors(config, found) if c.name == "acme"] == [5.0]

    path.write_text("collectors: {acme: {enabled: false}}")
    _, found = configuration.load_configuration(path)
    assert "acme" not in found


def test_a_raising_collector_keeps_what_it_gave() -> None:
    """An exception is the pass's error; Samples before it are not lost."""

    def readings() -> Iterator[Reading]:
        yield METRIC.sample(1.0)
        raise KeyError("surprise")

    result = collect_readings("test", readings, Host(), 0.0)

    assert [sample.value for sample in result.samples] == [1.0]
    assert result.error == "KeyError: 'surprise'"
    assert result.outcome is Outcome.FAILED


def test_series_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runaway label is cut off, and the cut is counted as something missing."""
    monkeypatch.setattr("agent.sampling.sampler.SERIES_CAP", 3)
    result = collect_readings("test", lambda: (METRIC.sample(1.0, n=str(n)) for n in range(10)), Host(), 0.0)

    assert len(result.samples) == 3
    assert "cap of 3 series" in result.notes[0].reason


@pytest.mark.parametrize(
    ("samples", "reasons", "outcome"),
    [
        (1, ["Input/output error"], Outcome.OK),
        (0, ["Input/output error"], Outcome.FAILED),
        (0, [], Outcome.ABSENT),
        (0, ["Permission denied", "Operation not permitted"], Outcome.REFUSED),
        (0, ["Permission denied", "no such file"], Outcome.FAILED),
    ],
)
def test_outcomes(samples: int, reasons: list[str], outcome: Outcome) -> None:
    """Absent hardware and a refusal are not failures; nothing with a reason is."""
    host = Host()
    for reason in reasons:
        host.note("file", reason)
    result = collect_readings("test", lambda: [METRIC.sample(1.0)] * samples, host, 0.0)

    assert result.outcome is outcome


def test_a_collector_may_ask_for_a_longer_time_to_its_next_pass() -> None:
    """What one pass asked for holds until the next, never below the interval, and never above two minutes."""
    host = Host()

    def readings() -> Iterator[Reading]:
        host.again(30.0)
        yield METRIC.sample(1.0)

    asked = collect_readings("test", readings, host, 0.0)
    course = CollectorState(collector(interval=10.0), 0.0)
    intervals = []
    for again in (asked.again, None, 3.0, 500.0):
        course.record_result(asked._replace(again=again))
        intervals.append(course.interval)

    assert asked.again == 30.0
    assert collect_readings("test", lambda: (), host, 0.0).again is None
    assert intervals == [30.0, 10.0, 10.0, 120.0]


def test_processor_time_of_other_threads_counts() -> None:
    """What a collector's own threads took is part of what its pass cost, and of that pass only."""
    host = Host()

    def readings() -> Iterator[Reading]:
        host.spend(0.25)
        yield METRIC.sample(1.0)

    assert collect_readings("test", readings, host, 0.0).cpu_seconds >= 0.25
    assert collect_readings("test", lambda: (), host, 0.0).cpu_seconds < 0.25


def test_a_stuck_read_is_never_stacked() -> None:
    """While a pass has not returned no other is started; each missed turn counts as an overrun."""
    lane = HeldLane()
    gather = Sampler(lambda _: lane, [collector()], 0.0)
    for now in (0.0, 1.0, 2.0, 3.0):
        gather.start_due(now)

    assert lane.started == [0.0]
    assert gather.states["test"].overruns == 3
    assert gather.states["test"].outcome is Outcome.FAILED
    assert gather.states["test"].age(3.0) == 3.0


def test_a_late_tick_does_not_shift_the_grid() -> None:
    """Passes stay on the grid of the first, and missed turns are not made up for."""
    lane = HeldLane()
    gather = Sampler(lambda _: lane, [collector()], 0.0)
    for now in (0.0, 1.02, 2.01, 7.5, 8.0, 8.5):
        gather.start_due(now)
        lane.busy_since = None
        gather.record_result(ended("test", now))

    assert lane.started == [0.0, 1.02, 2.01, 7.5, 8.5]


def test_a_costly_collector_is_asked_less_often() -> None:
    """The interval grows until the collector takes less than a hundredth of a core, and never above two minutes."""
    course = CollectorState(collector(), 0.0)
    for number in range(5):
        course.record_result(ended("test", number, cpu=0.05))
    assert course.interval == pytest.approx(5.0)

    for number in range(5):
        course.record_result(ended("test", number, cpu=10.0))
    assert course.interval == 120.0

    for number in range(5):
        course.record_result(ended("test", number, cpu=0.0001))
    assert course.interval == 1.0


def test_slow_collectors_are_due_when_the_schedule_says() -> None:
    """After its first pass a slow collector waits for the schedule, not for the tick."""
    lane = HeldLane()
    gather = Sampler(lambda _: lane, [collector(interval=60.0)], 0.0)
    gather.start_due(0.0)
    lane.busy_since = None
    gather.start_due(100.0)
    assert lane.started == [0.0]

    gather.make_slow_due("test", 100.0)
    gather.start_due(100.0)
    assert lane.started == [0.0, 100.0]


def test_news_of_hardware_make_due() -> None:
    """A collector that is named is asked at the next tick, whatever its interval; an unknown name is nothing."""
    lanes = {name: HeldLane() for name in ("topology", "edac")}
    gather = Sampler(lambda c: lanes[c.name], [collector(name, 60.0) for name in lanes], 0.0)
    gather.start_due(0.0)
    for lane in lanes.values():
        lane.busy_since = None
    gather.make_due(("topology", "ipmi"), 7.0)

    assert gather.start_due(7.0) == {"topology"}


def test_silence_counts_intervals() -> None:
    """A collector is silent once its newest good reading is older than so many of its own intervals."""
    gather = Sampler(lambda _: HeldLane(), [collector("fast", 1.0), collector("slow", 60.0)], 0.0)

    assert gather.find_silent(3.0, 3) == []
    assert gather.find_silent(3.1, 3) == ["fast"]
    assert gather.find_silent(180.1, 3) == ["fast", "slow"]


def test_a_standstill_of_our_own_is_nobodys_silence() -> None:
    """After the agent itself stood still each collector has its intervals again before it counts as silent."""
    gather = Sampler(lambda _: HeldLane(), [collector("fast", 1.0)], 0.0)
    gather.note_wake(100.0)

    assert gather.find_silent(103.0, 3) == []
    assert gather.find_silent(103.1, 3) == ["fast"]


def joined(name: str = "joined", after: tuple[str, ...] = ("a", "b")) -> Collector:
    """A join that counts the Samples of what it is made from, and that says so in a note."""

    def join(readings: dict[str, tuple[Sample, ...]], host: Host) -> Iterator[Reading]:
        for source, samples in readings.items():
            host.note(source, "counted")
            yield METRIC.sample(float(len(samples)), source=source)

    return collector(name, after=after, join=join)


def test_a_join_is_as_old_as_its_oldest_source() -> None:
    """As a whole it has the time of the oldest reading in it, and is made when one of its sources arrives."""
    gather = Sampler(lambda _: HeldLane(), [collector("a"), collector("b"), joined()], 0.0)
    gather.record_result(ended("a", 5.0))
    gather.record_result(ended("b", 3.0, values=2))
    (result,) = gather.join_arrived(["a"])

    assert result.began == 3.0
    assert [sample.value for sample in result.samples] == [1.0, 2.0]
    assert [note.path for note in result.notes] == ["a", "b"]
    assert gather.states["joined"].age(10.0) == 7.0
    assert gather.join_arrived(["c"]) == []


def test_what_is_joined_is_recorded_with_what_it_was_made_of() -> None:
    """Each source brings its own part, once for each of its passes, so that a slow source holds back no fast one."""
    gather = Sampler(lambda _: HeldLane(), [collector("a"), collector("b"), joined()], 0.0)
    slow, fast = ended("b", 1.0, values=2), ended("a", 5.0)
    for result in (slow, fast):
        gather.record_result(result)
    gather.join_arrived(["a", "b"])
    again = ended("a", 6.0, values=3)
    gather.record_result(again)
    gather.join_arrived(["a"])

    assert [sample.value for sample in gather.append_joined(slow)] == [1.0, 1.0, 2.0]
    assert [sample.value for sample in gather.append_joined(again)] == [1.0, 1.0, 1.0, 3.0]
    assert gather.append_joined(fast) == fast.samples  # a pass that has been followed by another is no part any more


def test_a_source_that_gives_nothing_has_no_part() -> None:
    """What a failed source gave before is neither shown again nor does it make the join old."""
    gather = Sampler(lambda _: HeldLane(), [collector("a"), collector("b"), joined()], 0.0)
    for result in (ended("a", 5.0), ended("b", 3.0)):
        gather.record_result(result)
    gather.join_arrived(["a", "b"])
    gather.record_result(ended("b", 6.0, values=0, error="broken"))
    (result,) = gather.join_arrived(["b"])

    assert [dict(sample.labels)["source"] for sample in result.samples] == ["a"]
    assert result.began == 5.0


def test_a_join_waits_for_the_source_that_it_must_know_first() -> None:
    """Nothing is made before that source's first word, with Samples or without, and then its Samples come first."""
    waiting = collector("joined", after=("a", "b"), awaits=("a",), join=joined().join)
    for values, made in ((1, ["a", "b"]), (0, ["b"])):
        gather = Sampler(lambda _: HeldLane(), [collector("a"), collector("b"), waiting], 0.0)
        gather.record_result(ended("b", 1.0))
        assert gather.join_arrived(["b"]) == []
        gather.record_result(ended("a", 2.0, values=values))
        (result,) = gather.join_arrived(["a"])

        assert [dict(sample.labels)["source"] for sample in result.samples] == made


def test_a_source_that_always_breaks_off_is_not_waited_for() -> None:
    """An eye that is just coming up is given a second pass; where it never comes, DIMMs must not go unwatched."""
    waiting = collector("joined", after=("a", "b"), awaits=("a",), join=joined().join)
    gather = Sampler(lambda _: HeldLane(), [collector("a"), collector("b"), waiting], 0.0)
    gather.record_result(ended("b", 1.0))
    gather.record_result(ended("a", 2.0, values=0, error="the eye is not running"))
    assert gather.join_arrived(["a", "b"]) == []
    gather.record_result(ended("a", 62.0, values=0, error="the eye is not running"))
    (result,) = gather.join_arrived(["a"])

    assert [dict(sample.labels)["source"] for sample in result.samples] == ["b"]


def test_a_source_that_is_switched_off_is_not_waited_for() -> None:
    """The operator may not want it."""
    waiting = collector("joined", after=("a", "b"), awaits=("a",), join=joined().join)
    gather = Sampler(lambda _: HeldLane(), [collector("b"), waiting], 0.0)
    gather.record_result(ended("b", 1.0))

    assert len(gather.join_arrived(["b"])) == 1


def test_a_join_is_no_sampling_group() -> None:
    """Nothing is recorded by the name of a join."""
    gather = Sampler(lambda _: HeldLane(), [collector("a"), joined()], 0.0)

    assert gather.list_sampling_groups() == ["a"]


def test_a_read_that_never_returns_costs_one_thread(tmp_path: Path) -> None:
    """A FIFO that nobody writes blocks its own lane; another lane answers meanwhile."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("7")
    answers: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()

    def reads(name: str) -> Collector:
        return collector(name, collect=lambda host: [METRIC.sample(host.read_int(name))])

    before = threading.active_count()
    stuck = ThreadRunner("fifo", Host(tmp_path), answers.put)
    well = ThreadRunner("file", Host(tmp_path), answers.put)
    stuck.start(reads("fifo"), 0.0)
    for _ in range(3):
        well.start(reads("file"), 0.0)
        assert [sample.value for sample in answers.get(timeout=10).samples] == [7.0]

    assert stuck.busy_since == 0.0
    assert threading.active_count() == before + 2
    (tmp_path / "fifo").write_text("1")  # lets the thread go
    assert answers.get(timeout=10).collector == "fifo"


def test_a_removed_collectors_answer_is_dropped() -> None:
    """A pass that arrives after its collector was removed is not recorded."""
    gather = Sampler(lambda _: HeldLane(), [collector()], 0.0)
    gather.remove("test")

    assert not gather.record_result(ended("test", 1.0))
