"""The collector ipmi against a scripted BMC: requests sent, values read, silence and reconfiguration."""

from __future__ import annotations

import pytest

from bench.bmc import SimulatedSensor, make_dimm_sensors, make_other_sensors
from collectors import ipmi
from collectors._ipmi.client import IpmiRequest
from tests.collectors._ipmi.scripted_session import Begin
from tests.scripted_bmc import Answer, ScriptedBmc

ONLY_READS = {request for request in IpmiRequest if request.name.startswith("GET_")} | {
    IpmiRequest.RESERVE_SDR_REPOSITORY,
    IpmiRequest.RESERVE_DEVICE_SDR,
}


def test_one_request_for_each_wanted_sensor(begin: Begin) -> None:
    """A steady pass asks whether list and log have changed, and reads each selected sensor once."""
    bmc = ScriptedBmc([*make_dimm_sensors(32), *make_other_sensors()])
    session = begin(bmc)
    first = session.read_values()
    bmc.clear_requests()
    second = session.read_values()

    assert first == second
    assert bmc.count(IpmiRequest.GET_SENSOR_READING) == 32 + 1 + 4
    assert len(bmc.requests) == 37 + 2
    assert session.connections == 1
    assert session.take_reasons() == []


def test_only_what_reads_can_be_sent() -> None:
    """No existing request writes, clears, resets or configures anything."""
    assert set(IpmiRequest) == ONLY_READS


def test_what_has_no_reading_is_missing(begin: Begin) -> None:
    """An unavailable, unscanned or absent sensor is missing: silently if it never had a value, else with a note."""
    bmc = ScriptedBmc(make_dimm_sensors(5))
    bmc.readings |= {2: bytes((0, 0xE0, 0)), 3: bytes((0, 0x80, 0)), 4: bytes((0, 0x20, 0))}
    del bmc.readings[5]
    session = begin(bmc)

    assert session.read_temperatures() == {"DIMMA1 Temp": 42.0}
    assert session.take_reasons() == []

    bmc.readings[1] = bytes((0, 0xE0, 0))
    bmc.readings[2] = bytes((50, 0xC0, 0))
    assert session.read_temperatures() == {"DIMMA2 Temp": 50.0}
    assert session.take_reasons() == ["has no reading now"]


@pytest.mark.parametrize("reading", [b"", b"\x2a"])
def test_a_short_answer_costs_its_own_sensor(begin: Begin, reading: bytes) -> None:
    """A reading of no or one byte is refused, and its neighbours are read."""
    bmc = ScriptedBmc(make_dimm_sensors(3))
    bmc.readings[2] = reading
    session = begin(bmc)

    assert sorted(session.read_temperatures()) == ["DIMMA1 Temp", "DIMMB1 Temp"]
    assert session.take_reasons()[0].startswith("expected a reading of 2 bytes")


def test_no_working_server_is_that_hot(begin: Begin) -> None:
    """200 °C is nonsense from the BMC: missing, with its byte in the note."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    bmc.readings[1] = bytes((200, 0xC0, 0))
    session = begin(bmc)

    assert sorted(session.read_temperatures()) == ["DIMMA2 Temp"]
    assert session.take_reasons() == ["expected -40 to 150, found 200.0 from the byte 0xC8"]


def test_a_nonlinear_sensor_is_asked_for_its_factors(begin: Begin) -> None:
    """Factors are requested for the sensor's current reading, and from no other sensor."""
    bmc = ScriptedBmc([SimulatedSensor("DIMM N", 40, linearization=0x70), *make_dimm_sensors(1)])
    requests: list[bytes] = []

    def factors(data: bytes) -> Answer:
        requests.append(data)
        return 0, bytes((41, 2, 0, 5, 0, 0, 0))

    bmc.answers[IpmiRequest.GET_SENSOR_READING_FACTORS] = factors

    assert begin(bmc).read_temperatures() == {"DIMM N": 85.0, "DIMMA1 Temp": 42.0}
    assert requests == [bytes((1, 40))]


def test_margins_are_not_temperatures(begin: Begin) -> None:
    """Intel's DIMM Thrm Mrgn of -55 has a metric of its own."""
    values = begin(ScriptedBmc([SimulatedSensor("DIMM Thrm Mrgn 1", 0xC9, units=0x80)])).read_values()

    assert values["temperature_margin DIMM Thrm Mrgn 1"] == -55.0
    assert "temperature DIMM Thrm Mrgn 1" not in values


@pytest.mark.parametrize(
    ("raw", "upper", "units", "seconds"),
    [(69, 85, 0, 30.0), (71, 85, 0, 10.0), (69, 0, 0, 30.0), (71, 0, 0, 10.0), (0xF8, 0, 0x80, 10.0)],
)
def test_near_a_limit_it_looks_more_often(begin: Begin, raw: int, upper: int, units: int, seconds: float) -> None:
    """Passes come every 30 s, and every 10 s below 10 °C of headroom: to critical less 5, to 80 °C, or by a margin."""
    name = "DIMM Mrgn" if units else "DIMM"
    session = begin(ScriptedBmc([SimulatedSensor(name, raw, units=units, upper=(0, upper, 0))]))
    session.read_values()

    assert session.host.take_again() == seconds


def test_a_slow_bmc_is_asked_less_often_and_in_turns(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval is at least twice the sweep's time; an unfinished sweep continues in the next pass."""
    clock = [1000.0]
    bmc = ScriptedBmc(make_dimm_sensors(6))

    def slow(data: bytes) -> Answer:
        clock[0] += 3.0
        return 0, bmc.readings[data[0]]

    bmc.answers[IpmiRequest.GET_SENSOR_READING] = slow
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    session = begin(bmc)
    passes = [sorted(session.read_temperatures()) for _ in range(2)]

    assert passes == [
        ["DIMMA1 Temp", "DIMMA2 Temp", "DIMMB1 Temp"],
        ["DIMMB2 Temp", "DIMMC1 Temp", "DIMMC2 Temp"],
    ]
    assert session.take_reasons() == ["is too slow for all its sensors in one pass; the next pass continues"] * 2
    assert session.host.take_again() == 30.0

    monkeypatch.setattr(ipmi, "_PASS", 60.0)
    assert len(session.read_temperatures()) == 6
    assert session.host.take_again() == 2 * 6 * 3.0


def test_a_bmc_that_falls_silent_is_one_note_and_comes_back(begin: Begin) -> None:
    """Its session is closed, no value is reported, and the next pass opens a new session."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    session = begin(bmc)
    session.read_values()
    bmc.is_silent = True

    assert session.read_values() == {}
    assert session.take_reasons() == ["no answer within 5 s"]
    assert bmc.close_count == 1
    assert session.host.take_again() == 30.0

    bmc.is_silent = False
    assert len(session.read_temperatures()) == 2
    assert session.connections == 2


def test_another_configuration_begins_anew(begin: Begin) -> None:
    """After a reload the old session is closed, and the new patterns apply."""
    bmc = ScriptedBmc([*make_dimm_sensors(1), *make_other_sensors()])
    session = begin(bmc)
    session.read_values()
    session.config = ipmi.Config(include=("CPU*",), exclude=("DIMM*",))

    assert sorted(session.read_temperatures()) == ["CPU1 Temp", "CPU2 Temp", "Inlet Temp"]
    assert (bmc.close_count, session.connections) == (1, 2)
