"""Pressure stall information: seconds, and no readings where the kernel has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from collectors import Host, Reading, pressure

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

SOME = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000"
FULL = "full avg10=0.00 avg60=0.00 avg300=0.00 total=250000"


def test_a_kernel_without_psi_is_no_error(machine: Machine) -> None:
    """RHEL starts with psi=0: no folder, no Samples and no note."""
    host = machine({"proc/meminfo": "MemTotal: 8 kB\n"})

    assert list(pressure.collect(host)) == []
    assert host.take_notes() == []


def test_stalled_is_not_told_for_cpu(machine: Machine, series: Series) -> None:
    """The kernel's `full` for cpu is 0 and documented as undefined, so it is not passed on."""
    host = machine({"proc/pressure/cpu": f"{SOME}\n{FULL}\n"})

    assert series(pressure.collect(host)) == {'steadytok_pressure_waiting_seconds_total{resource="cpu"}': 1.5}


@pytest.mark.parametrize(
    "line", ["some avg10=0.00", "some total=5", "full avg10=0 avg60=0 avg300=0 total=-1", "<unknown>"]
)
def test_one_bad_line_hides_no_other(machine: Machine, series: Series, line: str) -> None:
    """A cut line is missing and noted; the next line and the next file are read."""
    host = machine({"proc/pressure/memory": f"{line}\n{FULL}\n", "proc/pressure/io": f"{SOME}\n"})

    assert series(pressure.collect(host)) == {
        'steadytok_pressure_waiting_seconds_total{resource="io"}': 1.5,
        'steadytok_pressure_stalled_seconds_total{resource="memory"}': 0.25,
    }
    assert [note.path for note in host.take_notes()] == ["proc/pressure/memory"]
