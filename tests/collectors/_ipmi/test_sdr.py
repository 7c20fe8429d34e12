"""The BMC's list of sensors: read once, cached, in parts, over several passes, and never without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bmc import SimulatedSensor, make_dimm_sensors
from collectors._ipmi.client import IpmiRequest
from tests.collectors._ipmi.scripted_session import Begin
from tests.scripted_bmc import Answer, ScriptedBmc


def test_the_list_of_sensors_is_read_once_for_all_processes(begin: Begin, tmp_path: Path) -> None:
    """The list is cached under the BMC's id and the list's own time stamp."""
    bmc = ScriptedBmc(make_dimm_sensors(8))
    session = begin(bmc, tmp_path)
    session.read_values()

    assert bmc.count(IpmiRequest.GET_SDR) == 8

    bmc.clear_requests()
    session.restart()
    assert len(session.read_temperatures()) == 8
    assert bmc.count(IpmiRequest.GET_SDR) == 0


@pytest.mark.parametrize("change", ["stamp", "firmware", "half a file"])
def test_a_changed_list_is_read_again(begin: Begin, tmp_path: Path, change: str) -> None:
    """A new time stamp, another BMC or a damaged cache makes the list be read again, in the running process too."""
    bmc = ScriptedBmc(make_dimm_sensors(8))
    session = begin(bmc, tmp_path)
    session.read_values()
    bmc.records[0] = SimulatedSensor("DIMMX Temp", 0).encode_record(1, 1)
    if change == "stamp":
        bmc.added_at += 1
    else:
        session.restart()
    if change == "firmware":
        bmc.identity = bmc.identity[:3] + b"\x10" + bmc.identity[4:]
    if change == "half a file":
        (tmp_path / "ipmi-sdr.json").write_text((tmp_path / "ipmi-sdr.json").read_text()[:100])

    assert "DIMMX Temp" in session.read_temperatures()


def test_a_list_without_a_time_stamp_is_not_trusted_after_a_new_log_in(begin: Begin, tmp_path: Path) -> None:
    """Changes of such a list are invisible, so it is never taken from the cache, and read again in each session."""
    bmc = ScriptedBmc(make_dimm_sensors(4))
    bmc.has_timestamps = False
    session = begin(bmc, tmp_path)
    session.read_values()
    session.read_values()
    assert bmc.count(IpmiRequest.GET_SDR) == 4

    session.restart()
    session.read_values()
    assert bmc.count(IpmiRequest.GET_SDR) == 8

    bmc.is_silent = True
    session.read_values()
    bmc.is_silent = False
    session.read_values()
    assert bmc.count(IpmiRequest.GET_SDR) == 12


@pytest.mark.parametrize("longest", [48, 32, 16, 8])
def test_a_bmc_that_cannot_give_whole_records_is_read_in_parts(begin: Begin, longest: int) -> None:
    """Parts are as large as the BMC can send, a size found once and not for each record."""
    bmc = ScriptedBmc(make_dimm_sensors(4))
    bmc.max_part_bytes = longest
    session = begin(bmc)

    assert len(session.read_temperatures()) == 4
    assert bmc.count(IpmiRequest.RESERVE_SDR_REPOSITORY) == 1
    assert sum(1 for request, data in bmc.requests if request is IpmiRequest.GET_SDR and data[5] > longest) <= 4


def test_a_lost_reservation_is_made_again(begin: Begin) -> None:
    """Another reader of the list cancels the reservation; the collector gives up where that never ends."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    bmc.max_part_bytes = 32
    original, lost = bmc._get_sdr, [3]

    def get(data: bytes) -> Answer:
        if data[4] and lost[0]:
            lost[0] -= 1
            return 0xC5, b""
        return original(data)

    bmc.answers[IpmiRequest.GET_SDR] = get
    session = begin(bmc)
    assert len(session.read_temperatures()) == 2

    lost[0] = -1
    bmc.added_at += 1
    assert session.read_values() == {}
    assert session.take_reasons() == ["its SDR changes faster than it can be read"]


@pytest.mark.parametrize("following", [1, 2, 0])
def test_a_list_without_end_is_given_up(begin: Begin, following: int) -> None:
    """Records that lead back to themselves fill no memory and take no time."""
    bmc = ScriptedBmc(make_dimm_sensors(3))
    bmc.answers[IpmiRequest.GET_SDR] = lambda data: (0, following.to_bytes(2, "little") + bmc.records[0])
    session = begin(bmc)

    assert session.read_values() == {}
    assert "its SDR has no end" in session.take_reasons()[0]
    assert bmc.count(IpmiRequest.GET_SDR) < 5


def test_a_broken_record_costs_its_own_sensor(begin: Begin) -> None:
    """A record that is too short is noted in each pass, and the others are read; so is a duplicate number."""
    bmc = ScriptedBmc(make_dimm_sensors(4))
    bmc.records[1] = bmc.records[1][:4] + b"\x05" + bmc.records[1][5:10]
    bmc.records[2] = SimulatedSensor("Other Temp", 0).encode_record(1, 3)
    session = begin(bmc)

    for _ in range(2):
        assert session.read_temperatures() == {"DIMMA1 Temp": 42.0, "DIMMB2 Temp": 45.0}
        assert session.take_reasons() == [
            "too short for its type",
            "has the same number as DIMMA1 Temp, which is read instead",
        ]


def test_a_long_list_takes_several_passes(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass reads what it has time for, and the next one continues, in another process too."""
    clock = [1000.0]
    bmc = ScriptedBmc(make_dimm_sensors(10))
    original = bmc._get_sdr

    def slow(data: bytes) -> Answer:
        clock[0] += 3.0
        return original(data)

    bmc.answers[IpmiRequest.GET_SDR] = slow
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    session = begin(bmc, tmp_path)
    counts = []
    for _ in range(4):
        counts.append(len(session.read_temperatures()))
        session.restart()

    assert counts == [0, 0, 0, 10]
    assert bmc.count(IpmiRequest.GET_SDR) == 10


def test_device_records_are_read_where_there_is_no_repository(begin: Begin) -> None:
    """A controller with only its own sensors' records gives those, where pyghmi gives up."""
    bmc = ScriptedBmc(make_dimm_sensors(3))
    bmc.identity = bytes.fromhex("20 81 03 09 02 05 91 12 00 02 0f")
    bmc.answers[IpmiRequest.GET_DEVICE_SDR_INFO] = lambda data: (0, b"\x03\x01")
    bmc.answers[IpmiRequest.GET_DEVICE_SDR] = bmc._get_sdr

    assert len(begin(bmc).read_temperatures()) == 3
    assert bmc.count(IpmiRequest.GET_SDR) == 0
