"""The ipmi collector against a BMC that does what the test says: what is sent, what is kept, what is never made up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.bmc import SimulatedSensor, make_dimm_sensors, make_other_sensors
from collectors import Host, Reading, ipmi
from collectors._ipmi.client import Bmc, BmcError, IpmiRequest
from tests.scripted_bmc import Answer, ScriptedBmc

ONLY_READS = {request for request in IpmiRequest if request.name.startswith("GET_")} | {
    IpmiRequest.RESERVE_SDR_REPOSITORY,
    IpmiRequest.RESERVE_DEVICE_SDR,
}
ECC, THROTTLED, TOO_HOT = bytes.fromhex("0c516f2000 07"), bytes.fromhex("0c516f29ff03"), bytes.fromhex("010101594e55")


class IpmiSession:
    """A Host, and the BMC that its ipmi collector finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bmc: ScriptedBmc, shelf: Path | None = None) -> None:
        self.bmc, self.shelf, self.config = bmc, shelf, ipmi.Config()
        self.host = Host("/", shelf)
        self.connections = 0
        monkeypatch.setattr(ipmi, "open_bmc", self._open)

    def _open(self, host: Host, _address: str, _file: str | None) -> Bmc | None:
        self.connections += 1
        try:
            return Bmc(self.bmc, "BMC")
        except BmcError as error:
            return host.note("BMC", str(error))

    def restart(self) -> None:
        """As another process would begin."""
        self.host = Host("/", self.shelf)

    def read_values(self) -> dict[str, float]:
        """One pass: values by metric and sensor, or by metric and event."""
        return {
            _format_name(reading): reading.value
            for reading in ipmi.collect(self.host, self.config)
            if reading is not None
        }

    def read_temperatures(self) -> dict[str, float]:
        """The temperatures of one pass by the sensor's name."""
        head = "temperature "
        return {name.removeprefix(head): value for name, value in self.read_values().items() if name.startswith(head)}

    def take_reasons(self) -> list[str]:
        """What was noted since the last call."""
        return [note.reason for note in self.host.take_notes()]


def _format_name(reading: Reading) -> str:
    assert reading is not None
    labels = dict(reading.labels)
    short = reading.metric.name.removeprefix("steadytok_ipmi_").removesuffix("_celsius")
    return " ".join(filter(None, (short, labels.get("sensor", labels.get("event", "")))))


Begin = Callable[..., IpmiSession]


@pytest.fixture(name="begin")
def _begin(monkeypatch: pytest.MonkeyPatch) -> Begin:
    return lambda bmc, shelf=None: IpmiSession(monkeypatch, bmc, shelf)


def test_one_request_for_each_wanted_sensor(begin: Begin) -> None:
    """In steady state: whether the list and the log have changed, and one reading each; processors are not asked."""
    bmc = ScriptedBmc([*make_dimm_sensors(32), *make_other_sensors()])
    session = begin(bmc)
    first = session.read_values()
    bmc.forget()
    second = session.read_values()

    assert first == second
    assert bmc.count(IpmiRequest.GET_SENSOR_READING) == 32 + 1 + 4
    assert len(bmc.asked) == 37 + 2
    assert session.connections == 1
    assert session.take_reasons() == []


def test_only_what_reads_can_be_sent() -> None:
    """No request that there is writes, clears, resets or configures anything."""
    assert set(IpmiRequest) == ONLY_READS


def test_what_has_no_reading_is_missing(begin: Begin) -> None:
    """Not available, not scanned, not there: no value and no complaint while it never had one, a note when it had."""
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
    """A reading of no or one byte is nonsense, and its neighbours are read."""
    bmc = ScriptedBmc(make_dimm_sensors(3))
    bmc.readings[2] = reading
    session = begin(bmc)

    assert sorted(session.read_temperatures()) == ["DIMMA1 Temp", "DIMMB1 Temp"]
    assert session.take_reasons()[0].startswith("expected a reading of 2 bytes")


def test_no_working_server_is_that_hot(begin: Begin) -> None:
    """200 °C is a BMC that answers nonsense: missing, with its byte."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    bmc.readings[1] = bytes((200, 0xC0, 0))
    session = begin(bmc)

    assert sorted(session.read_temperatures()) == ["DIMMA2 Temp"]
    assert session.take_reasons() == ["expected -40 to 150, found 200.0 from the byte 0xC8"]


def test_a_nonlinear_sensor_is_asked_for_its_factors(begin: Begin) -> None:
    """Those for the very reading it has; only such a sensor is asked."""
    bmc = ScriptedBmc([SimulatedSensor("DIMM N", 40, linearization=0x70), *make_dimm_sensors(1)])
    requests: list[bytes] = []

    def factors(data: bytes) -> Answer:
        requests.append(data)
        return 0, bytes((41, 2, 0, 5, 0, 0, 0))

    bmc.instead[IpmiRequest.GET_SENSOR_READING_FACTORS] = factors

    assert begin(bmc).read_temperatures() == {"DIMM N": 85.0, "DIMMA1 Temp": 42.0}
    assert requests == [bytes((1, 40))]


def test_margins_are_not_temperatures(begin: Begin) -> None:
    """Intel's DIMM Thrm Mrgn says -55: a metric of its own."""
    values = begin(ScriptedBmc([SimulatedSensor("DIMM Thrm Mrgn 1", 0xC9, units=0x80)])).read_values()

    assert values["temperature_margin DIMM Thrm Mrgn 1"] == -55.0
    assert "temperature DIMM Thrm Mrgn 1" not in values


@pytest.mark.parametrize(
    ("raw", "upper", "units", "seconds"),
    [(69, 85, 0, 30.0), (71, 85, 0, 10.0), (69, 0, 0, 30.0), (71, 0, 0, 10.0), (0xF8, 0, 0x80, 10.0)],
)
def test_near_a_limit_it_looks_more_often(begin: Begin, raw: int, upper: int, units: int, seconds: float) -> None:
    """Every 30 s, and every 10 s below 10 °C of headroom: to 5 below critical, to 80 °C, or as a margin says."""
    name = "DIMM Mrgn" if units else "DIMM"
    session = begin(ScriptedBmc([SimulatedSensor(name, raw, units=units, upper=(0, upper, 0))]))
    session.read_values()

    assert session.host.take_again() == seconds


def test_a_slow_bmc_is_asked_less_often_and_in_turns(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never faster than twice the sweep; a pass that is over goes on at the next one where it ended."""
    clock = [1000.0]
    bmc = ScriptedBmc(make_dimm_sensors(6))

    def slow(data: bytes) -> Answer:
        clock[0] += 3.0
        return 0, bmc.readings[data[0]]

    bmc.instead[IpmiRequest.GET_SENSOR_READING] = slow
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


def test_the_list_of_sensors_is_read_once_for_all_processes(begin: Begin, tmp_path: Path) -> None:
    """It is kept on the shelf under the BMC's id and the list's own time stamp."""
    bmc = ScriptedBmc(make_dimm_sensors(8))
    session = begin(bmc, tmp_path)
    session.read_values()

    assert bmc.count(IpmiRequest.GET_SDR) == 8

    bmc.forget()
    session.restart()
    assert len(session.read_temperatures()) == 8
    assert bmc.count(IpmiRequest.GET_SDR) == 0


@pytest.mark.parametrize("change", ["stamp", "firmware", "half a file"])
def test_a_changed_list_is_read_again(begin: Begin, tmp_path: Path, change: str) -> None:
    """By a new time stamp, by another BMC, and where the shelf's file is broken; in the running process too."""
    bmc = ScriptedBmc(make_dimm_sensors(8))
    session = begin(bmc, tmp_path)
    session.read_values()
    bmc.records[0] = SimulatedSensor("DIMMX Temp", 0).encode_record(1, 1)
    if change == "stamp":
        bmc.added += 1
    else:
        session.restart()
    if change == "firmware":
        bmc.identity = bmc.identity[:3] + b"\x10" + bmc.identity[4:]
    if change == "half a file":
        (tmp_path / "ipmi-sdr.json").write_text((tmp_path / "ipmi-sdr.json").read_text()[:100])

    assert "DIMMX Temp" in session.read_temperatures()


def test_a_list_without_a_time_stamp_is_not_trusted_after_a_new_log_in(begin: Begin, tmp_path: Path) -> None:
    """Nothing would tell that it has changed: it is never taken from the shelf, and read again with each session."""
    bmc = ScriptedBmc(make_dimm_sensors(4))
    bmc.dated = False
    session = begin(bmc, tmp_path)
    session.read_values()
    session.read_values()
    assert bmc.count(IpmiRequest.GET_SDR) == 4

    session.restart()
    session.read_values()
    assert bmc.count(IpmiRequest.GET_SDR) == 8

    bmc.silent = True
    session.read_values()
    bmc.silent = False
    session.read_values()
    assert bmc.count(IpmiRequest.GET_SDR) == 12


@pytest.mark.parametrize("longest", [48, 32, 16, 8])
def test_a_bmc_that_cannot_give_whole_records_is_read_in_parts(begin: Begin, longest: int) -> None:
    """As large as it can, found once and not for each record."""
    bmc = ScriptedBmc(make_dimm_sensors(4))
    bmc.longest = longest
    session = begin(bmc)

    assert len(session.read_temperatures()) == 4
    assert bmc.count(IpmiRequest.RESERVE_SDR_REPOSITORY) == 1
    assert sum(1 for request, data in bmc.asked if request is IpmiRequest.GET_SDR and data[5] > longest) <= 4


def test_a_lost_reservation_is_made_again(begin: Begin) -> None:
    """Somebody else who reads the list cancels ours; one who does so for ever is given up."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    bmc.longest = 32
    original, lost = bmc._get_sdr, [3]

    def get(data: bytes) -> Answer:
        if data[4] and lost[0]:
            lost[0] -= 1
            return 0xC5, b""
        return original(data)

    bmc.instead[IpmiRequest.GET_SDR] = get
    session = begin(bmc)
    assert len(session.read_temperatures()) == 2

    lost[0] = -1
    bmc.added += 1
    assert session.read_values() == {}
    assert session.take_reasons() == ["its SDR changes faster than it can be read"]


@pytest.mark.parametrize("following", [1, 2, 0])
def test_a_list_without_end_is_given_up(begin: Begin, following: int) -> None:
    """Records that lead back to themselves fill no memory and take no time."""
    bmc = ScriptedBmc(make_dimm_sensors(3))
    bmc.instead[IpmiRequest.GET_SDR] = lambda data: (0, following.to_bytes(2, "little") + bmc.records[0])
    session = begin(bmc)

    assert session.read_values() == {}
    assert "its SDR has no end" in session.take_reasons()[0]
    assert bmc.count(IpmiRequest.GET_SDR) < 5


def test_a_broken_record_costs_its_own_sensor(begin: Begin) -> None:
    """One that is too short is noted each time, and the others are read; so is a number that is there twice."""
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
    """Each reads what it has time for, and the next one goes on, in another process too."""
    clock = [1000.0]
    bmc = ScriptedBmc(make_dimm_sensors(10))
    original = bmc._get_sdr

    def slow(data: bytes) -> Answer:
        clock[0] += 3.0
        return original(data)

    bmc.instead[IpmiRequest.GET_SDR] = slow
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    session = begin(bmc, tmp_path)
    counts = []
    for _ in range(4):
        counts.append(len(session.read_temperatures()))
        session.restart()

    assert counts == [0, 0, 0, 10]
    assert bmc.count(IpmiRequest.GET_SDR) == 10


def test_device_records_are_read_where_there_is_no_repository(begin: Begin) -> None:
    """A controller that has only its own sensors' records gives those; pyghmi gives up there."""
    bmc = ScriptedBmc(make_dimm_sensors(3))
    bmc.identity = bytes.fromhex("20 81 03 09 02 05 91 12 00 02 0f")
    bmc.instead[IpmiRequest.GET_DEVICE_SDR_INFO] = lambda data: (0, b"\x03\x01")
    bmc.instead[IpmiRequest.GET_DEVICE_SDR] = bmc._get_sdr

    assert len(begin(bmc).read_temperatures()) == 3
    assert bmc.count(IpmiRequest.GET_SDR) == 0


def test_a_bmc_that_falls_silent_is_one_note_and_comes_back(begin: Begin) -> None:
    """Its session is ended, nothing is made up, and the next pass begins a new one."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    session = begin(bmc)
    session.read_values()
    bmc.silent = True

    assert session.read_values() == {}
    assert session.take_reasons() == ["no answer within 5 s"]
    assert bmc.closed == 1
    assert session.host.take_again() == 30.0

    bmc.silent = False
    assert len(session.read_temperatures()) == 2
    assert session.connections == 2


def test_entries_about_memory_are_counted_from_now_on(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    """Counters are born at 0, whatever the log holds; each new entry is counted once and told of."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    bmc.enter(ECC, ECC, THROTTLED)
    session = begin(bmc)
    first = session.read_values()

    assert {value for name, value in first.items() if name.startswith("memory_events")} == {0.0}
    assert first["sel_entries"] == 3.0

    bmc.enter(ECC, THROTTLED, TOO_HOT)
    with caplog.at_level(logging.WARNING):
        second = session.read_values()
    assert second["memory_events_total correctable_ecc"] == 1.0
    assert second["memory_events_total throttled"] == 1.0
    assert second["memory_events_total over_temperature"] == 1.0
    assert session.read_values() == second
    assert caplog.messages == [
        "BMC: event log: memory correctable_ecc on sensor 0x51, module 7, entry 4",
        "BMC: event log: memory throttled on sensor 0x51, module 3, entry 5",
        "BMC: event log: memory over_temperature on DIMMA1 Temp (0x01), entry 6",
    ]


def test_a_log_that_stands_still_costs_one_request(begin: Begin) -> None:
    """Entries are fetched only where the log's own stamp or count has changed."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.enter(ECC)
    session = begin(bmc)
    session.read_values()
    bmc.forget()
    session.read_values()

    assert (bmc.count(IpmiRequest.GET_SEL_INFO), bmc.count(IpmiRequest.GET_SEL_ENTRY)) == (1, 0)


def test_a_cleared_log_is_recognised(begin: Begin) -> None:
    """By its erase time: what is in it then came after, though its numbers begin again; the counters go on."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.enter(ECC, ECC, ECC)
    session = begin(bmc)
    session.read_values()
    bmc.log.clear()
    bmc.erased = 2000
    bmc.enter(ECC, ECC, ECC, ECC)

    assert session.read_values()["memory_events_total correctable_ecc"] == 4.0

    bmc.log.clear()
    bmc.erased = 3000
    assert session.read_values()["memory_events_total correctable_ecc"] == 4.0


def test_a_full_log_that_writes_over_its_oldest_is_followed(begin: Begin) -> None:
    """Where our last entry is gone without an erase, all that is there now came later."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.enter(ECC)
    session = begin(bmc)
    session.read_values()
    bmc.enter(ECC, ECC, ECC)
    del bmc.log[:2]

    assert session.read_values()["memory_events_total correctable_ecc"] == 2.0


def test_many_entries_take_several_passes(begin: Begin) -> None:
    """A storm of them is read in pieces, and no sensor waits for it."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    session = begin(bmc)
    session.read_values()
    bmc.enter(*[ECC] * 150)

    assert [session.read_values()["memory_events_total correctable_ecc"] for _ in range(4)] == [
        64.0,
        128.0,
        150.0,
        150.0,
    ]


def test_what_is_no_memory_event_is_not_counted(begin: Begin) -> None:
    """A deassertion, a processor that is hot, a presence, and an entry of a vendor's own kind."""
    bmc = ScriptedBmc([*make_dimm_sensors(1), *make_other_sensors()])
    session = begin(bmc)
    session.read_values()
    bmc.enter(bytes.fromhex("0c51ef2000ff"), bytes.fromhex("010201594e55"), bytes.fromhex("0c516f06ffff"))
    bmc.log.append(bytes((4, 0, 0xC0)) + bytes(13))

    assert {value for name, value in session.read_values().items() if name.startswith("memory_events")} == {0.0}


def test_a_bmc_without_a_log_has_no_counters(begin: Begin) -> None:
    """It says so in its device id, or does not know the command: its sensors are read all the same."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.identity = bmc.identity[:5] + b"\x03" + bmc.identity[6:]
    values = begin(bmc).read_values()

    assert values["temperature DIMMA1 Temp"] == 42.0
    assert not [name for name in values if name.startswith(("memory", "sel"))]

    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.instead[IpmiRequest.GET_SEL_INFO] = lambda data: (0xC1, b"")
    session = begin(bmc)
    assert session.read_values()["temperature DIMMA1 Temp"] == 42.0
    assert session.take_reasons() == ["Get sel info was answered with code 0xC1"]


def test_another_configuration_begins_anew(begin: Begin) -> None:
    """After a reload the session of the old one is ended, and the new patterns rule."""
    bmc = ScriptedBmc([*make_dimm_sensors(1), *make_other_sensors()])
    session = begin(bmc)
    session.read_values()
    session.config = ipmi.Config(include=("CPU*",), exclude=("DIMM*",))

    assert sorted(session.read_temperatures()) == ["CPU1 Temp", "CPU2 Temp", "Inlet Temp"]
    assert (bmc.closed, session.connections) == (1, 2)
