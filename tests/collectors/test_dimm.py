"""The join of DIMM readings: which limit counts, and which module a sensor belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from collectors import Host, Reading, counter, dimm, dmi, gauge
from tests.machines.smbios import END, encode_memory_device

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
TEMPERATURE = gauge("steadytok_hwmon_temperature_celsius", "…")
MAXIMUM = gauge("steadytok_hwmon_temperature_max_celsius", "…")
CRITICAL = gauge("steadytok_hwmon_temperature_critical_celsius", "…")
IPMI = gauge("steadytok_ipmi_temperature_celsius", "…")
IPMI_MARGIN = gauge("steadytok_ipmi_temperature_margin_celsius", "…")
IPMI_CRITICAL = gauge("steadytok_ipmi_temperature_upper_critical_celsius", "…")
IPMI_EVENTS = counter("steadytok_ipmi_memory_events_total", "…")
EDAC_CORRECTED = counter("steadytok_edac_dimm_correctable_errors_total", "…")
EDAC_UNCORRECTED = counter("steadytok_edac_dimm_uncorrectable_errors_total", "…")


def _make_sensor(device: str, celsius: float, *, chip: str = "spd5118", critical: float | None = None) -> list[Reading]:
    labels = {"chip": chip, "device": device, "sensor": "temp1"}
    return [
        TEMPERATURE.sample(celsius, **labels),
        MAXIMUM.sample(55, **labels),
        *([] if critical is None else [CRITICAL.sample(critical, **labels)]),
    ]


def _join_hwmon(host: Host, series: Series, *sensors: list[Reading]) -> dict[str, float]:
    samples = [reading for sensor in sensors for reading in sensor if reading is not None]
    return series(dimm.join({"hwmon": samples}, host))


@pytest.mark.parametrize(("critical", "limit"), [(80, 80), (85, 85), (95, 85)])
def test_headroom_is_what_is_left_until_trouble(
    machine: Machine, series: Series, critical: float, limit: float
) -> None:
    """A lower critical limit counts; a higher one does not move the 85 °C from which refreshes double."""
    assert _join_hwmon(machine({}), series, _make_sensor("3-0050", 71.25, critical=critical)) == {
        'steadytok_dimm_temperature_celsius{dimm="3-0050",source="hwmon"}': 71.25,
        'steadytok_dimm_limit_celsius{dimm="3-0050",source="hwmon"}': limit,
        'steadytok_dimm_headroom_celsius{dimm="3-0050",source="hwmon"}': limit - 71.25,
    }


@pytest.mark.parametrize("critical", [None, 0.0, -1.0])
def test_without_a_limit_the_normal_range_counts(machine: Machine, series: Series, critical: float | None) -> None:
    """JEDEC's normal range ends at 85 °C, and a limit of 0 is no limit."""
    values = _join_hwmon(machine({}), series, _make_sensor("0-0018", 90, chip="jc42", critical=critical))

    assert values['steadytok_dimm_headroom_celsius{dimm="0-0018",source="hwmon"}'] == -5


def test_only_memory_modules_are_dimms(machine: Machine, series: Series) -> None:
    """A processor's sensor is no DIMM, and modules without a name are indistinguishable."""
    sensors = _make_sensor("coretemp.0", 60, chip="coretemp"), _make_sensor("", 50)

    assert _join_hwmon(machine({}), series, *sensors) == {}


@pytest.mark.parametrize(("nodes", "label"), [((0,), 'node="0",'), ((0, 1), "")])
def test_the_node_is_told_only_where_there_is_one(
    machine: Machine, series: Series, nodes: tuple[int, ...], label: str
) -> None:
    """All sensors are on one socket's bus, so a node is certain only on a host with a single one."""
    host = machine({f"sys/devices/system/node/node{node}/cpulist": str(node) for node in nodes})

    assert f'steadytok_dimm_temperature_celsius{{dimm="3-0050",{label}source="hwmon"}}' in _join_hwmon(
        host, series, _make_sensor("3-0050", 40)
    )


def test_without_sensors_there_is_nothing(machine: Machine) -> None:
    """A source without readings gives no DIMM."""
    assert list(dimm.join({}, machine({}))) == []


def _join_sources(
    host: Host, series: Series, config: dimm.Config | None = None, **sources: list[Reading]
) -> dict[str, float]:
    samples = {name: [reading for reading in readings if reading is not None] for name, readings in sources.items()}
    return series(dimm.join(samples, host, config))


def _make_ipmi(sensor: str, celsius: float, *, entity: str = "32.96", critical: float | None = None) -> list[Reading]:
    entity_id, entity_instance = entity.split(".")
    labels = {"sensor": sensor, "number": f"0x{len(sensor):02x}"}
    labels |= {"entity_id": entity_id, "entity_instance": entity_instance}
    temperatures = IPMI_MARGIN if "Mrgn" in sensor else IPMI
    return [
        temperatures.sample(celsius, **labels),
        *([] if critical is None else [IPMI_CRITICAL.sample(critical, **labels)]),
    ]


def _make_edac(path: str, label: str, corrected: float | None, uncorrected: float | None = 0) -> list[Reading]:
    controller, module = path.split("/")
    labels = {"controller": controller, "dimm": module, "label": label}
    return [EDAC_CORRECTED.sample(corrected, **labels), EDAC_UNCORRECTED.sample(uncorrected, **labels)]


def _make_table(folder: Path, *locators: str) -> list[Reading]:
    """The readings of dmi for these slots; the join's own machine has no readable table."""
    path = folder / "firmware/sys/firmware/dmi/tables/DMI"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(encode_memory_device(0x20 + n, locator) for n, locator in enumerate(locators)) + END)
    return list(dmi.collect(Host(folder / "firmware")))


@pytest.mark.parametrize(("critical", "limit"), [(54.9, 85), (55, 55), (85, 85), (100, 85), (127, 85), (-128, 85)])
def test_a_critical_limit_must_be_credible(machine: Machine, series: Series, critical: float, limit: float) -> None:
    """A BMC's unset threshold is an arbitrary number: only 55 to 100 °C is a module's."""
    values = _join_sources(machine({}), series, ipmi=_make_ipmi("DIMM 1 Temp", 40, critical=critical))

    assert values['steadytok_dimm_limit_celsius{dimm="DIMM 1",source="ipmi"}'] == limit
    assert values['steadytok_dimm_headroom_celsius{dimm="DIMM 1",source="ipmi"}'] == pytest.approx(limit - 40)


def test_the_operators_limit_goes_before_all(machine: Machine, series: Series) -> None:
    """The module's configured limit counts, else the one for all modules, higher or lower than the sensor's."""
    config = dimm.Config(limit=80, limits={"P1-DIMMA1": 92})
    sensors = _make_ipmi("P1-DIMMA1 Temp", 40, critical=70) + _make_ipmi("P1-DIMMB1 Temp", 40, critical=70)
    values = _join_sources(machine({}), series, config, ipmi=sensors)

    assert [value for name, value in values.items() if "_limit_" in name] == [92, 80]


def test_a_margin_is_headroom_and_nothing_else(machine: Machine, series: Series) -> None:
    """Intel's BMCs report the margin without the limit, so there is no temperature."""
    values = _join_sources(machine({}), series, ipmi=_make_ipmi("DIMM Thrm Mrgn 1", -55))

    assert values == {
        'steadytok_dimm_headroom_celsius{dimm="DIMM Thrm Mrgn 1",source="ipmi"}': 55,
    }


def test_sensors_of_one_name_are_told_apart_by_what_they_are_on(machine: Machine, series: Series) -> None:
    """Dell names every sensor `Temp`: those on memory are modules, the processors' are not."""
    sensors = [
        _make_ipmi("Temp", 40, entity="8.1"),
        _make_ipmi("Temp", 45, entity="8.2"),
        _make_ipmi("Temp", 70, entity="3.1"),
    ]
    values = _join_sources(machine({}), series, ipmi=[reading for sensor in sensors for reading in sensor])
    temperatures = {name: value for name, value in values.items() if "temperature" in name}

    assert temperatures == {
        'steadytok_dimm_temperature_celsius{dimm="memory 8.1",source="ipmi"}': 40,
        'steadytok_dimm_temperature_celsius{dimm="memory 8.2",source="ipmi"}': 45,
    }
    assert values['steadytok_dimm_sensor_info{dimm="memory 8.1",sensor="Temp 8.1",source="ipmi"}'] == 1


def test_what_is_no_module_is_said(machine: Machine, series: Series) -> None:
    """A regulator named after memory is reported with its reason; the inlet needs none."""
    sensors = _make_ipmi("VR_DIMMG0_TEMP", 90, entity="7.1") + _make_ipmi("Inlet Temp", 24, entity="55.1")
    reason = "a voltage regulator, which runs hotter than the modules beside it"

    assert _join_sources(machine({}), series, ipmi=sensors) == {
        f'steadytok_dimm_unplaced_info{{reason="{reason}",sensor="VR_DIMMG0_TEMP",source="ipmi"}}': 1
    }


def test_errors_of_a_modules_ranks_are_summed(machine: Machine, series: Series) -> None:
    """Both ranks belong to one module, and their errors are added up."""
    rows = (
        _make_edac("mc0/rank0", "P1-DIMMA1", 5)
        + _make_edac("mc0/rank1", "P1-DIMMA1", 2, 1)
        + _make_edac("mc0/rank2", "", 9)
    )
    values = _join_sources(machine({}), series, edac=rows)

    assert {name: value for name, value in values.items() if "_errors_" in name} == {
        'steadytok_dimm_correctable_errors_total{dimm="P1-DIMMA1",source="edac"}': 7,
        'steadytok_dimm_uncorrectable_errors_total{dimm="P1-DIMMA1",source="edac"}': 1,
        'steadytok_dimm_correctable_errors_total{dimm="mc0/rank2",source="edac"}': 9,
        'steadytok_dimm_uncorrectable_errors_total{dimm="mc0/rank2",source="edac"}': 0,
    }


def test_a_part_of_the_errors_is_no_sum(machine: Machine, series: Series) -> None:
    """A rank that is unreadable now must not look like a counter reset."""
    host = machine({})
    both = _make_edac("mc0/rank0", "P1-DIMMA1", 5) + _make_edac("mc0/rank1", "P1-DIMMA1", 2)
    assert (
        _join_sources(host, series, edac=both)[
            'steadytok_dimm_correctable_errors_total{dimm="P1-DIMMA1",source="edac"}'
        ]
        == 7
    )

    for rows in (_make_edac("mc0/rank0", "P1-DIMMA1", 5) + _make_edac("mc0/rank1", "P1-DIMMA1", None), both[:2]):
        values = _join_sources(host, series, edac=rows)
        assert 'steadytok_dimm_correctable_errors_total{dimm="P1-DIMMA1",source="edac"}' not in values


def test_firmware_that_throttles_is_counted(machine: Machine, series: Series) -> None:
    """The BMC's log entries about throttled memory are a counter that starts at 0; other entries are not."""
    log = [IPMI_EVENTS.sample(0, event="throttled"), IPMI_EVENTS.sample(3, event="correctable_ecc")]

    assert _join_sources(machine({}), series, ipmi=log) == {'steadytok_dimm_throttled_total{source="ipmi"}': 0}


def test_what_a_slot_holds_is_told(machine: Machine, series: Series, tmp_path: Path) -> None:
    """A module's info has its slot, manufacturer, part and serial number; an empty slot has none."""
    host = machine({"sys/devices/system/node/node0/cpulist": "0"})

    assert set(_join_sources(host, series, dmi=_make_table(tmp_path, "P1-DIMMA1", "P1-DIMMB1"))) == {
        f'steadytok_dimm_info{{dimm="P1-DIMM{channel}1",locator="P1-DIMM{channel}1",node="0",type="DDR4"}}'
        for channel in "AB"
    }


def test_the_table_need_not_be_readable_here(machine: Machine, series: Series, tmp_path: Path) -> None:
    """Installed, only the eye may read the firmware's table; dmi's first Samples name the modules of all sources."""
    host = machine({})
    _join_sources(host, series, dmi=_make_table(tmp_path, "P1-DIMMA1", "P2-DIMMA1"))
    values = _join_sources(host, series, ipmi=_make_ipmi("P1-DIMMA1 Temp", 40) + _make_ipmi("DIMM P2 A1 Temp", 41))

    temperatures = {name for name in values if name.startswith("steadytok_dimm_temperature")}
    assert temperatures == {
        f'steadytok_dimm_temperature_celsius{{dimm="P{socket}-DIMMA1",source="ipmi"}}' for socket in (1, 2)
    }


def test_labels_stay_until_the_configuration_changes(machine: Machine, series: Series, tmp_path: Path) -> None:
    """A table that becomes readable later changes no name in a run; a new map of the operator does."""
    host = machine({})
    before = _join_sources(host, series, ipmi=_make_ipmi("DIMM A1 Temp", 40))
    table = _make_table(tmp_path, "DIMM_A1")
    _join_sources(host, series, dmi=table)

    assert _join_sources(host, series, ipmi=_make_ipmi("DIMM A1 Temp", 40)) == before
    _join_sources(host, series, changed := dimm.Config(limit=80), dmi=table)
    assert any(
        'dimm="DIMM_A1"' in name for name in _join_sources(host, series, changed, ipmi=_make_ipmi("DIMM A1 Temp", 40))
    )


def test_what_fits_no_slot_is_told_in_each_pass(machine: Machine, series: Series, tmp_path: Path) -> None:
    """`steadytok check` shows the sensor and the attempted match; no reading is missing, so there is no note."""
    host = machine({})
    _join_sources(host, series, dmi=_make_table(tmp_path, "P1-DIMMA1"))
    reason = "no serial number can be read from its SPD"
    for _ in range(2):
        values = _join_sources(host, series, hwmon=_make_sensor("3-0050", 40))
        assert (
            f'steadytok_dimm_unplaced_info{{dimm="3-0050",reason="{reason}",sensor="3-0050",source="hwmon"}}' in values
        )
        assert host.take_notes() == []


def test_a_slip_in_the_operators_map_is_told(machine: Machine, series: Series) -> None:
    """A name for a sensor that does not exist is reported."""
    values = _join_sources(
        machine({}), series, dimm.Config(names={"hwmon/3-0055": "A1"}), hwmon=_make_sensor("3-0050", 40)
    )
    (unplaced,) = (name for name in values if "unplaced" in name)

    assert (
        'reason="is in collectors.dimm.names, but no such sensor was found",sensor="3-0055",source="hwmon"' in unplaced
    )


def test_sources_apart_are_sources_together(machine: Machine, series: Series, tmp_path: Path) -> None:
    """Once dmi has been read, no source needs another's Samples: each may arrive at its own time."""
    sources = {
        "dmi": _make_table(tmp_path, "P1-DIMMA1", "P2-DIMMA1"),
        "hwmon": _make_sensor("3-0050", 40),
        "ipmi": _make_ipmi("P1-DIMMA1 Temp", 41) + _make_ipmi("P2-DIMMA1 Temp", 42),
        "edac": _make_edac("mc0/dimm0", "P1-DIMMA1", 0),
    }
    host = machine({})
    apart = [_join_sources(host, series, **{name: readings}) for name, readings in sources.items()]

    assert _join_sources(Host(host.root), series, **sources) == {
        name: value for part in apart for name, value in part.items()
    }
