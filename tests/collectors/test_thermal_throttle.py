"""The traps of thermal_throttle: siblings that differ, CPUs that come and go, machines without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, thermal_throttle

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
CPU = "sys/devices/system/cpu"
EVENTS = 'steadytok_thermal_throttle_core_events_total{core="0",package="0"}'


def _make_cpu(number: int, events: int, *, core: int = 0) -> dict[str, str]:
    folder = f"{CPU}/cpu{number}"
    return {
        f"{folder}/topology/physical_package_id": "0",
        f"{folder}/topology/core_id": str(core),
        f"{folder}/thermal_throttle/core_throttle_count": str(events),
        f"{folder}/thermal_throttle/core_throttle_total_time_ms": str(events * 250),
        f"{folder}/thermal_throttle/package_throttle_count": str(events),
        f"{folder}/thermal_throttle/package_throttle_total_time_ms": str(events * 250),
    }


def test_a_core_has_the_highest_count_of_its_siblings(machine: Machine, series: Series) -> None:
    """Siblings count separately: node_exporter #1472 read 7343 and 432 on one core and took the first."""
    host = machine({f"{CPU}/online": "0-1"} | _make_cpu(0, 432) | _make_cpu(1, 7343))
    values = series(thermal_throttle.collect(host))

    assert values[EVENTS] == 7343
    assert values['steadytok_thermal_throttle_core_seconds_total{core="0",package="0"}'] == 1835.75


def test_a_sibling_going_offline_does_not_look_like_a_restart(machine: Machine, series: Series) -> None:
    """A counter that fell would be added to `increase` again when the CPU is back."""
    host = machine({f"{CPU}/online": "0-1"} | _make_cpu(0, 432) | _make_cpu(1, 7343))
    list(thermal_throttle.collect(host))
    machine({f"{CPU}/online": "0"})

    assert series(thermal_throttle.collect(host))[EVENTS] == 7343


def test_an_offline_cpu_is_no_fault(machine: Machine, series: Series) -> None:
    """An offline CPU has empty files, which are neither 0 nor a missing reading."""
    offline = dict.fromkeys(_make_cpu(1, 0, core=1), "")
    host = machine({f"{CPU}/online": "0"} | _make_cpu(0, 5) | offline)
    values = series(thermal_throttle.collect(host))

    assert values[EVENTS] == 5
    assert len(values) == 4
    assert host.take_notes() == []


def test_a_cpu_that_comes_online_is_counted(machine: Machine, series: Series) -> None:
    """Cores and packages are read again when the set of online CPUs changes."""
    host = machine({f"{CPU}/online": "0"} | _make_cpu(0, 5) | _make_cpu(1, 9, core=1))
    list(thermal_throttle.collect(host))
    machine({f"{CPU}/online": "0-1"})

    assert series(thermal_throttle.collect(host))[EVENTS.replace('core="0"', 'core="1"')] == 9


def test_a_core_known_in_part_is_missing(machine: Machine, series: Series) -> None:
    """The lower count of one sibling is not the core's count while the other is unread."""
    host = machine({f"{CPU}/online": "0-1"} | _make_cpu(0, 432) | _make_cpu(1, 7343))
    machine({f"{CPU}/cpu1/thermal_throttle/core_throttle_count": ""})

    assert EVENTS not in series(thermal_throttle.collect(host))
    assert len(host.take_notes()) == 1


def test_amd_has_none(machine: Machine, series: Series) -> None:
    """Without the folder, as on AMD, there are no readings and no notes."""
    files = {path: text for path, text in _make_cpu(0, 5).items() if "topology" in path}
    host = machine({f"{CPU}/online": "0"} | files)

    assert series(thermal_throttle.collect(host)) == {}
    assert host.take_notes() == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=6))
def test_counts_never_fall(machine: Machine, series: Series, passes: list[tuple[int, int]]) -> None:
    """For any counts of the siblings, the core's counter only grows and is at least each of them."""
    host = Host(machine({f"{CPU}/online": "0-1"}).root)  # a memory of its own for each example
    counts = [0.0]
    for first, second in passes:
        machine(_make_cpu(0, first) | _make_cpu(1, second))
        counts.append(series(thermal_throttle.collect(host))[EVENTS])

        assert counts[-1] >= max(first, second)

    assert counts == sorted(counts)
