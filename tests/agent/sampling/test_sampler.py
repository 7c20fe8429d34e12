"""The sampler starts each collector when it is due, and waits for none."""

from __future__ import annotations

from agent.sampling.passes import CollectionResult, Outcome
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import Sample
from tests.agent.sampling.fakes import METRIC, ManualRunner, make_collector, make_join, make_result


def _make_sampler(*collectors: Collector) -> Sampler:
    return Sampler(lambda _: ManualRunner(), collectors, 0.0)


def test_a_stuck_read_is_never_stacked() -> None:
    """While a pass has not returned no other is started; each missed turn counts as an overrun."""
    runner = ManualRunner()
    sampler = Sampler(lambda _: runner, [make_collector()], 0.0)
    for now in (0.0, 1.0, 2.0, 3.0):
        sampler.start_due(now)

    assert runner.start_times == [0.0]
    assert sampler.states["test"].overruns == 3
    assert sampler.states["test"].outcome is Outcome.FAILED
    assert sampler.states["test"].age(3.0) == 3.0


def test_a_late_tick_does_not_shift_the_grid() -> None:
    """Passes stay on the grid of the first, and missed turns are not made up for."""
    runner = ManualRunner()
    sampler = Sampler(lambda _: runner, [make_collector()], 0.0)
    for now in (0.0, 1.02, 2.01, 7.5, 8.0, 8.5):
        sampler.start_due(now)
        runner.busy_since = None
        sampler.record_result(make_result("test", now))

    assert runner.start_times == [0.0, 1.02, 2.01, 7.5, 8.5]


def test_slow_collectors_are_due_when_the_schedule_says() -> None:
    """After its first pass a slow collector waits for the scheduler, not for the tick."""
    runner = ManualRunner()
    sampler = Sampler(lambda _: runner, [make_collector(interval=60.0)], 0.0)
    sampler.start_due(0.0)
    runner.busy_since = None
    sampler.start_due(100.0)
    assert runner.start_times == [0.0]

    sampler.make_slow_due("test", 100.0)
    sampler.start_due(100.0)
    assert runner.start_times == [0.0, 100.0]


def test_news_of_hardware_make_due() -> None:
    """A uevent makes the collectors due that want its subsystem; lost events make all due that want any."""
    wanted_events = {"topology": ("cpu", "memory"), "edac": ("edac",), "vmstat": ()}
    runners = {name: ManualRunner() for name in wanted_events}
    collectors = [make_collector(name, 60.0, uevents=uevents) for name, uevents in wanted_events.items()]
    sampler = Sampler(lambda c: runners[c.name], collectors, 0.0)

    def start_due(now: float) -> set[str]:
        started = sampler.start_due(now)
        for runner in runners.values():
            runner.busy_since = None
        return started

    assert start_due(0.0) == set(wanted_events)
    sampler.make_due_on_uevent("memory", 7.0)
    sampler.make_due_on_uevent("net", 7.0)
    assert start_due(7.0) == {"topology"}

    sampler.make_due_on_uevent(None, 8.0)
    assert start_due(8.0) == {"topology", "edac"}


def test_silence_counts_intervals() -> None:
    """A collector is silent once its newest good reading is older than so many of its own intervals."""
    sampler = _make_sampler(make_collector("fast", 1.0), make_collector("slow", 60.0))

    assert sampler.find_silent(3.0, 3) == []
    assert sampler.find_silent(3.1, 3) == ["fast"]
    assert sampler.find_silent(180.1, 3) == ["fast", "slow"]


def test_a_standstill_of_our_own_is_nobodys_silence() -> None:
    """After the agent itself stood still each collector has its intervals again before it counts as silent."""
    sampler = _make_sampler(make_collector("fast", 1.0))
    sampler.note_wake(100.0)

    assert sampler.find_silent(103.0, 3) == []
    assert sampler.find_silent(103.1, 3) == ["fast"]


def test_a_read_slower_than_its_interval_is_late_and_not_silent() -> None:
    """A collector that always takes four intervals is shown with its age, not hidden when its result arrives."""
    runner = ManualRunner()
    sampler = Sampler(lambda _: runner, [make_collector()], 0.0)
    sampler.start_due(0.0)
    runner.busy_since = None
    sampler.record_result(CollectionResult("test", 0.0, 4.0, 0.01, (Sample(METRIC, (), 1.0),), ()))

    assert sampler.find_silent(4.0, 3) == []
    assert sampler.find_silent(30.0, 3) == ["test"]


def test_a_read_under_way_is_not_stacked_by_a_reload() -> None:
    """A collector that is removed while it reads and then added again gets its old runner, not a second read."""
    runners: list[ManualRunner] = []

    def make_runner(_: Collector) -> ManualRunner:
        runners.append(ManualRunner())
        return runners[-1]

    sampler = Sampler(make_runner, [make_collector()], 0.0)
    sampler.start_due(0.0)
    sampler.remove("test")
    sampler.add(make_collector(), 1.0)

    assert sampler.start_due(1.0) == set()
    assert len(runners) == 1


def test_a_removed_collectors_answer_is_dropped() -> None:
    """A pass that arrives after its collector was removed is not recorded."""
    sampler = _make_sampler(make_collector())
    sampler.remove("test")

    assert not sampler.record_result(make_result("test", 1.0))


def test_a_join_is_as_old_as_its_oldest_source() -> None:
    """Its result has the time of the oldest reading in it, and is made when one of its sources arrives."""
    sampler = _make_sampler(make_collector("a"), make_collector("b"), make_join())
    sampler.record_result(make_result("a", 5.0))
    sampler.record_result(make_result("b", 3.0, values=2))
    (result,) = sampler.join_arrived(["a"])

    assert result.began == 3.0
    assert [sample.value for sample in result.samples] == [1.0, 2.0]
    assert [note.path for note in result.notes] == ["a", "b"]
    assert sampler.states["join"].age(10.0) == 7.0
    assert sampler.join_arrived(["c"]) == []


def test_what_is_joined_is_recorded_with_what_it_was_made_of() -> None:
    """Each source brings its own part, once for each of its passes, so that a slow source holds back no fast one."""
    sampler = _make_sampler(make_collector("a"), make_collector("b"), make_join())
    slow, fast = make_result("b", 1.0, values=2), make_result("a", 5.0)
    for result in (slow, fast):
        sampler.record_result(result)
    sampler.join_arrived(["a", "b"])
    next_fast = make_result("a", 6.0, values=3)
    sampler.record_result(next_fast)
    sampler.join_arrived(["a"])

    assert [sample.value for sample in sampler.append_joined(slow)] == [1.0, 1.0, 2.0]
    assert [sample.value for sample in sampler.append_joined(next_fast)] == [1.0, 1.0, 1.0, 3.0]
    assert sampler.append_joined(fast) == fast.samples  # a pass that another has followed has no part


def test_a_source_that_gives_nothing_has_no_part() -> None:
    """Earlier samples of a failed source are not joined again, and do not make the join old."""
    sampler = _make_sampler(make_collector("a"), make_collector("b"), make_join())
    for result in (make_result("a", 5.0), make_result("b", 3.0)):
        sampler.record_result(result)
    sampler.join_arrived(["a", "b"])
    sampler.record_result(make_result("b", 6.0, values=0, error="broken"))
    (result,) = sampler.join_arrived(["b"])

    assert [dict(sample.labels)["source"] for sample in result.samples] == ["a"]
    assert result.began == 5.0


def test_a_join_waits_for_the_source_that_it_must_know_first() -> None:
    """Nothing is joined before that source's first result, with samples or without; its samples come first."""
    join = make_join(awaits=("a",))
    for values, sources in ((1, ["a", "b"]), (0, ["b"])):
        sampler = _make_sampler(make_collector("a"), make_collector("b"), join)
        sampler.record_result(make_result("b", 1.0))
        assert sampler.join_arrived(["b"]) == []
        sampler.record_result(make_result("a", 2.0, values=values))
        (result,) = sampler.join_arrived(["a"])

        assert [dict(sample.labels)["source"] for sample in result.samples] == sources


def test_a_source_that_always_breaks_off_is_not_waited_for() -> None:
    """A first failed pass, as while an eye starts, is waited out; after a second one DIMMs must not go unwatched."""
    sampler = _make_sampler(make_collector("a"), make_collector("b"), make_join(awaits=("a",)))
    sampler.record_result(make_result("b", 1.0))
    sampler.record_result(make_result("a", 2.0, values=0, error="the eye is not running"))
    assert sampler.join_arrived(["a", "b"]) == []
    sampler.record_result(make_result("a", 62.0, values=0, error="the eye is not running"))
    (result,) = sampler.join_arrived(["a"])

    assert [dict(sample.labels)["source"] for sample in result.samples] == ["b"]


def test_a_source_that_is_switched_off_is_not_waited_for() -> None:
    """A join does not wait for a source that the operator has disabled."""
    sampler = _make_sampler(make_collector("b"), make_join(awaits=("a",)))
    sampler.record_result(make_result("b", 1.0))

    assert len(sampler.join_arrived(["b"])) == 1


def test_a_join_is_no_sampling_group() -> None:
    """No group is recorded under the name of a join."""
    sampler = _make_sampler(make_collector("a"), make_join())

    assert sampler.list_sampling_groups() == ["a"]
