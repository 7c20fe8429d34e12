"""The join of DIMM temperatures: which limit counts, and whose sensors they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from collectors import Host, Reading, dimm, gauge

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
NOW = gauge("steadytok_hwmon_temperature_celsius", "…")
MAXIMUM = gauge("steadytok_hwmon_temperature_max_celsius", "…")
CRITICAL = gauge("steadytok_hwmon_temperature_critical_celsius", "…")


def _sensor(device: str, celsius: float, *, chip: str = "spd5118", critical: float | None = None) -> list[Reading]:
    labels = {"chip": chip, "device": device, "sensor": "temp1"}
    return [
        NOW.sample(celsius, **labels),
        MAXIMUM.sample(55, **labels),
        *([] if critical is None else [CRITICAL.sample(critical, **labels)]),
    ]


def _join(host: Host, series: Series, *sensors: list[Reading]) -> dict[str, float]:
    samples = [reading for sensor in sensors for reading in sensor if reading is not None]
    return series(dimm.join({"hwmon": samples}, host))


@pytest.mark.parametrize(("critical", "limit"), [(80, 80), (85, 85), (95, 85)])
def test_headroom_is_what_is_left_until_trouble(
    machine: Machine, series: Series, critical: float, limit: float
) -> None:
    """A lower critical limit counts; a higher one does not move the 85 °C from which refreshes double."""
    assert _join(machine({}), series, _sensor("3-0050", 71.25, critical=critical)) == {
        'steadytok_dimm_temperature_celsius{dimm="3-0050",source="hwmon"}': 71.25,
        'steadytok_dimm_limit_celsius{dimm="3-0050",source="hwmon"}': limit,
        'steadytok_dimm_headroom_celsius{dimm="3-0050",source="hwmon"}': limit - 71.25,
    }


@pytest.mark.parametrize("critical", [None, 0.0, -1.0])
def test_without_a_limit_the_normal_range_counts(machine: Machine, series: Series, critical: float | None) -> None:
    """JEDEC's normal range ends at 85 °C, and a limit of 0 is no limit."""
    found = _join(machine({}), series, _sensor("0-0018", 90, chip="jc42", critical=critical))

    assert found['steadytok_dimm_headroom_celsius{dimm="0-0018",source="hwmon"}'] == -5


def test_only_memory_modules_are_dimms(machine: Machine, series: Series) -> None:
    """A processor's sensor is no DIMM, and a module without a name cannot be told from the next."""
    sensors = _sensor("coretemp.0", 60, chip="coretemp"), _sensor("", 50)

    assert _join(machine({}), series, *sensors) == {}


@pytest.mark.parametrize(("nodes", "label"), [((0,), 'node="0",'), ((0, 1), "")])
def test_the_node_is_told_only_where_there_is_one(
    machine: Machine, series: Series, nodes: tuple[int, ...], label: str
) -> None:
    """All sensors hang on one socket's bus, whatever node their modules belong to."""
    host = machine({f"sys/devices/system/node/node{node}/cpulist": str(node) for node in nodes})

    assert f'steadytok_dimm_temperature_celsius{{dimm="3-0050",{label}source="hwmon"}}' in _join(
        host, series, _sensor("3-0050", 40)
    )


def test_without_sensors_there_is_nothing(machine: Machine) -> None:
    """A source that gave nothing gives no DIMM."""
    assert list(dimm.join({}, machine({}))) == []
