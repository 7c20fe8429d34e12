"""The traps of hwmon: alarms that reading clears, unset limits, slow buses, broken sensors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from collectors import Host, Reading, hwmon

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
BUDGETS = (hwmon._CHIP_BUDGET, hwmon._PASS_BUDGET, hwmon.DEADLINE, hwmon.INTERVAL)  # their values outside of tests
FOLDER = "sys/class/hwmon/hwmon0"
DIMM = {
    f"{FOLDER}/name": "spd5118",
    f"{FOLDER}/temp1_input": "48250",
    f"{FOLDER}/temp1_max": "55000",
    f"{FOLDER}/temp1_crit": "85000",
}
TEMPERATURE = 'steadytok_hwmon_temperature_celsius{chip="spd5118",sensor="temp1"}'
MAXIMUM = TEMPERATURE.replace("_celsius", "_max_celsius")
CRITICAL = TEMPERATURE.replace("_celsius", "_critical_celsius")


def _read(host: Host, series: Series, config: hwmon.Config | None = None) -> dict[str, float]:
    return series(hwmon.collect(host, config or hwmon.Config()))


def test_alarms_are_never_opened(machine: Machine, series: Series) -> None:
    """Reading an alarm clears it for everybody: here each is a FIFO, and opening it would block for ever."""
    host = machine(DIMM)
    for alarm in ("temp1_max_alarm", "temp1_crit_alarm", "temp1_alarm"):
        os.mkfifo(host.path(f"{FOLDER}/{alarm}"))

    assert _read(host, series)[TEMPERATURE] == 48.25


def test_a_chip_that_is_not_named_is_never_read(machine: Machine, series: Series) -> None:
    """Some chips take seconds or ask the BMC: of unlisted chips only the name is read."""
    host = machine({f"{FOLDER}/name": "power_meter"})
    os.mkfifo(host.path(f"{FOLDER}/temp1_input"))

    assert _read(host, series) == {}


def test_the_operator_names_chips(machine: Machine, series: Series) -> None:
    """The configured list decides which chips are read."""
    host = machine(DIMM)

    assert _read(host, series, hwmon.Config(chips=("jc42",))) == {}
    assert _read(Host(host.root), series, hwmon.Config(chips=("spd5118",)))[TEMPERATURE] == 48.25


@pytest.mark.parametrize("unset", ["0", "-1000"])
def test_a_limit_of_zero_is_no_limit(machine: Machine, series: Series, unset: str) -> None:
    """After a resume some chips have limits of 0 °C, which every value exceeds: such a limit is ignored."""
    host = machine(DIMM | {f"{FOLDER}/temp1_crit": unset})
    values = _read(host, series)

    assert (values[TEMPERATURE], values[MAXIMUM]) == (48.25, 55)
    assert CRITICAL not in values
    assert host.take_notes() == []


@pytest.mark.parametrize("implausible", ["-128000", "255000", "-40001"])
def test_what_no_server_survives_is_missing(machine: Machine, series: Series, implausible: str) -> None:
    """An absent sensor reads as -128 or 255 °C: that is a missing reading, with a note."""
    host = machine(DIMM | {f"{FOLDER}/temp1_input": implausible})

    assert TEMPERATURE not in _read(host, series)
    assert len(host.take_notes()) == 1


def test_a_sensor_that_reports_a_fault_is_not_believed(machine: Machine, series: Series) -> None:
    """temp1_fault of 1 means that the input is invalid."""
    host = machine(DIMM | {f"{FOLDER}/temp1_fault": "1"})

    assert TEMPERATURE not in _read(host, series)

    machine({f"{FOLDER}/temp1_fault": "0"})

    assert _read(host, series)[TEMPERATURE] == 48.25


def test_limits_are_read_once_a_minute(machine: Machine, series: Series) -> None:
    """The DIMMs' bus is shared with the firmware: inputs are read in every pass, the rest in every thirtieth."""
    host = machine(DIMM)
    _read(host, series)
    machine({f"{FOLDER}/temp1_input": "49000", f"{FOLDER}/temp1_crit": "95000"})
    passes = [_read(host, series) for _ in range(30)]

    assert [values[TEMPERATURE] for values in passes] == [49.0] * 30
    assert [values[CRITICAL] for values in passes] == [85.0] * 29 + [95.0]


def test_a_chip_that_appears_is_found_at_once(machine: Machine, series: Series) -> None:
    """A new folder is read in the next pass."""
    host = machine(DIMM)
    _read(host, series)
    machine({"sys/class/hwmon/hwmon1/name": "k10temp", "sys/class/hwmon/hwmon1/temp1_input": "70125"})

    assert _read(host, series)['steadytok_hwmon_temperature_celsius{chip="k10temp",sensor="temp1"}'] == 70.125


def test_a_device_is_named_by_its_link(machine: Machine, series: Series) -> None:
    """Two DIMMs differ by the bus and address at the end of their `device` link."""
    host = machine(DIMM)
    Path(host.path(f"{FOLDER}/device")).symlink_to("../../../3-0050")

    assert _read(host, series)[TEMPERATURE.replace('",sensor', '",device="3-0050",sensor')] == 48.25


def test_cores_are_read_only_when_asked_for(machine: Machine, series: Series) -> None:
    """A core's own sensor interrupts that core, so by default only the package's is read."""
    files = {
        f"{FOLDER}/name": "coretemp",
        f"{FOLDER}/temp1_label": "Package id 0",
        f"{FOLDER}/temp1_input": "64000",
        f"{FOLDER}/temp2_label": "Core 0",
        f"{FOLDER}/temp2_input": "61000",
    }
    host = machine(files)

    assert list(_read(host, series).values()) == [64.0]
    assert list(_read(Host(host.root), series, hwmon.Config(cores=True)).values()) == [64.0, 61.0]


def test_a_fan_that_stands_still_is_a_reading(machine: Machine, series: Series) -> None:
    """A dead fan has 0 revolutions; the same chip's temperatures are not read."""
    host = machine({f"{FOLDER}/name": "nct6775", f"{FOLDER}/fan1_input": "0", f"{FOLDER}/temp1_input": "30000"})

    assert _read(host, series) == {'steadytok_hwmon_fan_rpm{chip="nct6775",sensor="fan1"}': 0.0}


def _make_dimms(count: int) -> dict[str, str]:
    files = {"name": "spd5118", "temp1_input": "48000", "temp1_crit": "85000"}
    return {f"sys/class/hwmon/hwmon{n}/{file}": text for n in range(count) for file, text in files.items()}


def _list_devices(host: Host) -> list[str]:
    """The chips whose temperature one pass gives, by bus and address."""
    readings = (reading for reading in hwmon.collect(host, hwmon.Config()) if reading is not None)
    return [dict(sample.labels)["device"] for sample in readings if sample.metric is hwmon.TEMPERATURE]


def test_budgets_end_before_the_deadline() -> None:
    """Whichever chips hang, the pass is over before it counts as overrun."""

    assert sorted(set(BUDGETS)) == list(BUDGETS)


def test_a_chip_that_never_answers_hides_no_other(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO blocks as a stuck bus does: the other chips are read in every pass, for one thread in all."""
    monkeypatch.setattr(hwmon, "_CHIP_BUDGET", 1.0)
    before = set(threading.enumerate())
    host = machine(_make_dimms(6))
    for n in range(6):
        Path(host.path(f"sys/class/hwmon/hwmon{n}/device")).symlink_to(f"../../../3-005{n}")
    stuck = Path(host.path("sys/class/hwmon/hwmon2/temp1_input"))
    stuck.unlink()
    os.mkfifo(stuck)
    others = ["3-0050", "3-0051", "3-0053", "3-0054", "3-0055"]
    first = _list_devices(host)
    reasons = [note for note in host.take_notes() if note.path == "sys/class/hwmon/hwmon2"]
    threads = set(threading.enumerate()) - before
    passes = [_list_devices(host) for _ in range(10)]

    assert [first, *passes] == [others] * 11
    assert [note.reason for note in reasons] == ["did not return within 1 s"]
    assert len(host.take_notes()) == 10
    assert set(threading.enumerate()) - before == threads
    assert len(threads) == 2

    writer = os.open(stuck, os.O_WRONLY)
    stuck.unlink()
    stuck.write_text("49000")
    os.close(writer)
    end = time.monotonic() + 30
    while threads <= set(threading.enumerate()):
        assert time.monotonic() < end, "the thread that was stuck has not ended"
        time.sleep(0.005)

    assert sorted(_list_devices(host)) == sorted([*others, "3-0052"])
    assert host.take_notes() == []
    assert set(threading.enumerate()) - before < threads
