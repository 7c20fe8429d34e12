"""Memory limits of an engine: which limit binds, what can be reclaimed, and cgroups out of sight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading
from collectors._process import cgroup

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

GIB = 1 << 30
LABELS = {"engine": "r1", "rank": "0"}
EVENTS = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"


def _make_process_files(path: str) -> dict[str, str]:
    return {"proc/7/cgroup": f"0::{path}\n"}


def _make_cgroup_files(
    path: str,
    current: object = GIB,
    maximum: object = "max",
    high: object = "max",
    cache: tuple[int, int, int] = (0, 0, 0),
    events: str = EVENTS,
) -> dict[str, str]:
    """The files of a cgroup; `cache` is active_file, inactive_file, file_mapped."""
    sizes = dict(zip(("active_file", "inactive_file", "file_mapped"), cache, strict=True))
    files = {
        "current": f"{current}\n",
        "max": f"{maximum}\n",
        "high": f"{high}\n",
        "events": events,
        "stat": f"anon {GIB}\nfile {sum(cache[:2])}\n" + "".join(f"{name} {size}\n" for name, size in sizes.items()),
        "numa_stat": f"anon N0={GIB} N1=4096\nfile N0=5 N1=6\nworkingset_refault_file N0=1 N1=2\n",
    }
    folder = "/".join(filter(None, ("sys/fs/cgroup", path)))
    return {f"{folder}/memory.{name}": text for name, text in files.items()}


def _read_values(host: Host, series: Series) -> dict[str, float]:
    """Readings by the metric's last words and the labels other than engine and rank."""
    values = series(cgroup.collect_cgroup(host, 7, LABELS))
    short = {name.removeprefix("steadytok_process_cgroup_"): value for name, value in values.items()}
    for label in ('engine="r1"', 'rank="0"'):
        short = {name.replace(f"{label},", "").replace(f",{label}", ""): value for name, value in short.items()}
    return {name.replace('{rank="0"}', ""): value for name, value in short.items()}


def test_what_a_service_with_a_limit_has(machine: Machine, series: Series) -> None:
    """A service has current, limits, available, events and anonymous memory by node, and no file cache by node."""
    host = machine(
        _make_process_files("/system.slice/r1.service")
        | _make_cgroup_files("system.slice/r1.service", 3 * GIB, 4 * GIB, "max")
    )

    assert _read_values(host, series) == {
        'info{cgroup="/system.slice/r1.service",limited_by="/system.slice/r1.service"}': 1,
        "max_bytes": 4 * GIB,
        "available_bytes": GIB,
        "available_ratio": 0.25,
        "current_bytes": 3 * GIB,
        'memory_events_total{event="low"}': 0,
        'memory_events_total{event="high"}': 0,
        'memory_events_total{event="max"}': 7,
        'memory_events_total{event="oom"}': 1,
        'memory_events_total{event="oom_kill"}': 1,
        'memory_events_total{event="oom_group_kill"}': 0,
        'anon_bytes{node="0"}': GIB,
        'anon_bytes{node="1"}': 4096,
    }
    assert host.take_notes() == []


def test_the_smallest_limit_above_counts(machine: Machine, series: Series) -> None:
    """A slice's limit binds a service with a larger limit or none; usage and events are then the slice's."""
    groups = (
        _make_cgroup_files("a", 9 * GIB, 64 * GIB)
        | _make_cgroup_files("a/b", 5 * GIB, 8 * GIB, events="max 3\n")
        | _make_cgroup_files("a/b/c", GIB)
    )
    read = _read_values(machine(_make_process_files("/a/b/c") | groups), series)

    assert read['info{cgroup="/a/b/c",limited_by="/a/b"}'] == 1
    assert (read["max_bytes"], read["current_bytes"], read["available_bytes"]) == (8 * GIB, 5 * GIB, 3 * GIB)
    assert read['memory_events_total{event="max"}'] == 3


def test_of_equal_limits_the_nearest_counts(machine: Machine, series: Series) -> None:
    """Container runtimes repeat a pod's limit at the container; usage and events are then the container's."""
    groups = _make_cgroup_files("pod", GIB, 8 * GIB, events="max 3\n") | _make_cgroup_files("pod/c", GIB, 8 * GIB)
    read = _read_values(machine(_make_process_files("/pod/c") | groups), series)

    assert 'info{cgroup="/pod/c",limited_by="/pod/c"}' in read
    assert read['memory_events_total{event="max"}'] == 7


def test_a_wider_limit_that_others_have_filled_is_what_is_left(machine: Machine, series: Series) -> None:
    """Available memory is the least of all levels, which need not be that of the smallest limit."""
    groups = _make_cgroup_files("pod", 99 * GIB, 100 * GIB) | _make_cgroup_files("pod/c", 20 * GIB, 64 * GIB)

    read = _read_values(machine(_make_process_files("/pod/c") | groups), series)

    assert (read["available_bytes"], read["available_ratio"]) == (GIB, 0.01)
    assert 'info{cgroup="/pod/c",limited_by="/pod"}' in read


def test_cache_that_can_be_given_back_is_available(machine: Machine, series: Series) -> None:
    """Reclaimable cache of a model file leaves room at the limit; mapped weights do not count as cache."""
    cache = (1 * GIB, 5 * GIB, 2 * GIB)
    host = machine(_make_process_files("/c") | _make_cgroup_files("c", 8 * GIB, 8 * GIB, cache=cache))

    assert _read_values(host, series)["available_bytes"] == 4 * GIB


def test_high_is_a_limit(machine: Machine, series: Series) -> None:
    """Beyond memory.high a process is slowed to a standstill, so available memory ends there."""
    read = _read_values(
        machine(_make_process_files("/c") | _make_cgroup_files("c", 3 * GIB, 16 * GIB, 4 * GIB)), series
    )

    assert (read["high_bytes"], read["available_bytes"]) == (4 * GIB, GIB)


def test_without_limits_there_is_no_limit(machine: Machine, series: Series) -> None:
    """`max` is no number: limit and available memory are absent, without a note."""
    host = machine(_make_process_files("/c") | _make_cgroup_files("c"))
    read = _read_values(host, series)

    assert not {"max_bytes", "high_bytes", "available_bytes", "available_ratio"} & read.keys()
    assert 'info{cgroup="/c"}' in read
    assert read["current_bytes"] == GIB
    assert host.take_notes() == []


@pytest.mark.parametrize("file", ["max", "high", "current", "stat"])
def test_what_one_level_does_not_tell_may_be_the_least(machine: Machine, series: Series, file: str) -> None:
    """An unreadable limit or usage makes the value missing; the next level's value does not replace it."""
    groups = _make_cgroup_files("pod", 9 * GIB, 64 * GIB, 60 * GIB) | _make_cgroup_files(
        "pod/c", 5 * GIB, 8 * GIB, 7 * GIB
    )
    host = machine(_make_process_files("/pod/c") | groups | {f"sys/fs/cgroup/pod/c/memory.{file}": "<unknown>\n"})
    read = _read_values(host, series)

    assert "available_bytes" not in read
    assert ("max_bytes" in read, "high_bytes" in read) == (file != "max", file != "high")
    assert any(note.path.endswith(f"c/memory.{file}") for note in host.take_notes())


@pytest.mark.parametrize("path", ["/", "/user.slice/session-1.scope"])
def test_a_cgroup_without_the_controller_is_silent(machine: Machine, series: Series, path: str) -> None:
    """The root, and cgroups without the memory controller, have no such files."""
    host = machine(_make_process_files(path) | {"sys/fs/cgroup/cgroup.controllers": "cpu memory\n"})

    assert _read_values(host, series) == {}
    assert host.take_notes() == []


def test_a_threaded_cgroup_is_accounted_for_above(machine: Machine, series: Series) -> None:
    """A threaded cgroup has no memory files; its domain has them."""
    host = machine(
        _make_process_files("/d/threads")
        | _make_cgroup_files("d", 1, 8)
        | {"sys/fs/cgroup/d/threads/cgroup.type": "threaded\n"}
    )

    assert 'info{cgroup="/d",limited_by="/d"}' in _read_values(host, series)


def test_in_a_container_the_topmost_is_the_container(machine: Machine, series: Series) -> None:
    """In its own cgroup namespace a container has the path /, and its files lie at the top."""
    read = _read_values(machine(_make_process_files("/") | _make_cgroup_files("", 3 * GIB, 4 * GIB)), series)

    assert (read['info{cgroup="/",limited_by="/"}'], read["max_bytes"]) == (1, 4 * GIB)


def test_what_our_namespace_does_not_show_is_missing(machine: Machine, series: Series) -> None:
    """A process outside this cgroup namespace has a path that leads nowhere: missing, with a note."""
    host = machine(_make_process_files("/../other.scope") | _make_cgroup_files("", 3 * GIB, 4 * GIB))

    assert _read_values(host, series) == {}
    assert [note.path for note in host.take_notes()] == ["proc/7/cgroup"]


def test_version_1_is_silent(machine: Machine, series: Series) -> None:
    """With version 1 only there is no line `0::`, and nothing is guessed."""
    host = machine({"proc/7/cgroup": "9:memory:/docker/1\n8:cpu,cpuacct:/docker/1\n"})

    assert _read_values(host, series) == {}
    assert host.take_notes() == []


def test_a_process_that_has_ended_is_silent(machine: Machine, series: Series) -> None:
    """An ended process has no files, and leaves no note."""
    host = machine(_make_cgroup_files("c"))

    assert _read_values(host, series) == {}
    assert host.take_notes() == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12) | st.just("max")), min_size=1, max_size=5))
def test_what_is_available_is_never_more_than_any_limit_leaves(
    machine: Machine, series: Series, levels: list[tuple[int, int | str]]
) -> None:
    """For any limits at any depth, available memory fits below each of them."""
    host = Host(machine({}).root)
    files, path = {}, ""
    for depth, (current, maximum) in enumerate(levels):
        path = f"{path}/{depth}".strip("/")
        files |= _make_cgroup_files(path, current, maximum)
    read = _read_values(machine(_make_process_files(f"/{path}") | files), series)
    remaining = [max(0, maximum - current) for current, maximum in levels if isinstance(maximum, int)]

    assert read.get("available_bytes") == min(remaining, default=None)
    assert host.take_notes() == []
