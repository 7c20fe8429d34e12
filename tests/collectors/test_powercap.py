"""The traps of powercap: counters that wrap, files for root only, the same package twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, powercap

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
ZONE = "sys/class/powercap/intel-rapl:0"
RANGE = 262_143_328_850
ENERGY = 'steadytok_powercap_energy_joules_total{name="package-0",zone="intel-rapl:0"}'


def _make_zone(energy: int) -> dict[str, str]:
    files = {"name": "package-0", "max_energy_range_uj": str(RANGE), "energy_uj": str(energy)}
    return {f"{ZONE}/{file}": text for file, text in files.items()}


def test_a_wrap_is_no_restart(machine: Machine, series: Series) -> None:
    """When the hardware's counter starts again at 0, its range is added."""
    host = machine(_make_zone(RANGE - 1_000_000))
    before = series(powercap.collect(host))[ENERGY]
    machine(_make_zone(2_000_000))

    assert series(powercap.collect(host))[ENERGY] - before == pytest.approx(3.0)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, RANGE - 1), st.lists(st.integers(0, RANGE - 1), max_size=8))
def test_energy_only_grows(machine: Machine, series: Series, start: int, steps: list[int]) -> None:
    """After any number of wraps the value has grown by exactly the energy used."""
    host = Host(machine({}).root)  # a memory of its own for each example
    used = start
    for step in [0, *steps]:
        used += step
        machine(_make_zone(used % RANGE))

        assert series(powercap.collect(host))[ENERGY] == pytest.approx(used / 1e6)


def test_without_a_range_it_restarts_by_itself(machine: Machine, series: Series) -> None:
    """A wrap without a known range is passed on as a counter restart."""
    host = machine(_make_zone(5_000_000) | {f"{ZONE}/max_energy_range_uj": ""})
    list(powercap.collect(host))
    machine({f"{ZONE}/energy_uj": "1000000"})

    assert series(powercap.collect(host))[ENERGY] == 1.0


def test_a_missing_reading_between_is_no_loss(machine: Machine, series: Series) -> None:
    """A pass without a reading is missing, and the next one has all energy used since."""
    host = machine(_make_zone(5_000_000))
    list(powercap.collect(host))
    machine({f"{ZONE}/energy_uj": ""})

    assert ENERGY not in series(powercap.collect(host))

    machine(_make_zone(9_000_000))

    assert series(powercap.collect(host))[ENERGY] == 9.0


def test_more_than_the_range_is_garbage(machine: Machine, series: Series) -> None:
    """A count above the zone's own range is refused."""
    host = machine(_make_zone(RANGE + 1))

    assert series(powercap.collect(host)) == {}
    assert len(host.take_notes()) == 1


def test_a_package_is_not_counted_twice(machine: Machine, series: Series) -> None:
    """intel-rapl-mmio:0 repeats the same package, and intel-rapl is no zone."""
    files = _make_zone(5_000_000) | {path.replace("rapl:", "rapl-mmio:"): text for path, text in _make_zone(1).items()}
    host = machine(files | {"sys/class/powercap/intel-rapl/enabled": "1"})

    assert series(powercap.collect(host)) == {ENERGY: 5.0}
