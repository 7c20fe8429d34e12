"""
The ipmi collector against OpenIPMI's simulator over a real RMCP+ session, and against ipmitool on the same BMC.

Every fault must be told in a note, invent nothing, stack nothing, and end by itself: threads and sockets are counted.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.bmc import PASSWORD, USER, SimulatedBmc, SimulatedSensor, make_dimm_sensors, make_other_sensors
from bench.relay import Relay
from collectors import Host, ipmi
from tests.processes import (
    count_left_over,
    fetch,
    find_free_port,
    list_open_sockets,
    require_program,
    run_process,
    wait_until,
)

pytestmark = [pytest.mark.deep, pytest.mark.timeout(240)]

HOUSE = Path(__file__).parents[2]
MINUTE = 60.0
STRANGE = [
    SimulatedSensor("T ones", 0xC9, units=0x40),
    SimulatedSensor("T twos", 0xC9, units=0x80),
    SimulatedSensor("T B", 40, b=-25),
    SimulatedSensor("T B exp", 40, b=-2, b_exponent=1),
    SimulatedSensor("T R exp", 40, m=25, r_exponent=-1),
    SimulatedSensor("T minus M", 40, m=-1, b=99),
    SimulatedSensor("T M 10 bits", 1, m=400, b=-300),
    SimulatedSensor("T F", 100, unit=2),
    SimulatedSensor("T K", 255, unit=3, m=2, b=-200),
    *(SimulatedSensor(f"T lin {number}", 4, linearization=number) for number in range(12)),
    SimulatedSensor("Fan percent", 35, type=4, unit=0, units=1, entity=29),
    SimulatedSensor("IPMI", 33, encoded_name=bytes.fromhex("83 29dca6")),  # in packed ASCII
]
EVERYTHING = (-math.inf, math.inf)
UNITS = {"degrees C": lambda t: t, "degrees F": lambda t: (t - 32) / 1.8, "degrees K": lambda t: t - 273.15}


class Bed:
    """A simulator behind a relay, and a Host that reads it."""

    def __init__(self, bmc: SimulatedBmc, relay: Relay, folder: Path) -> None:
        self.bmc, self.relay, self.folder = bmc, relay, folder
        self.file = folder / "credentials"
        self.log_in_as(USER, PASSWORD)
        self.host = Host("/", folder / "shelf")
        self.include: tuple[str, ...] = ()

    def log_in_as(self, user: str, password: str) -> None:
        self.file.write_text(f"username={user}\npassword={password}\n")
        self.file.chmod(0o600)

    def collect_values(self) -> dict[str, float]:
        """One pass: values by the sensor's name or the event's."""
        address = f"127.0.0.1:{self.relay.port}"
        config = ipmi.Config(address=address, credentials_file=str(self.file), include=self.include)
        metrics = (ipmi.TEMPERATURE, ipmi.FAN, ipmi.FAN_RATIO, ipmi.MEMORY_EVENTS)
        readings = (reading for reading in ipmi.collect(self.host, config) if reading is not None)
        return {_name(dict(r.labels)): r.value for r in readings if r.metric in metrics}

    def reasons(self) -> list[str]:
        return [note.reason for note in self.host.take_notes()]

    def wait_until_ok(self) -> dict[str, float]:
        """Passes one after another until one is whole; at most a dozen."""
        for _ in range(12):
            values = self.collect_values()
            if not self.reasons() and "DIMMA1 Temp" in values:
                return values
        pytest.fail("it did not become well again")


def _name(labels: dict[str, str]) -> str:
    return labels.get("sensor") or labels["event"]


@pytest.fixture(name="sensors")
def _sensors() -> list[SimulatedSensor]:
    return [*make_dimm_sensors(32), *make_other_sensors()]


@pytest.fixture(name="bed")
def _bed(tmp_path: Path, sensors: list[SimulatedSensor]) -> Iterator[Bed]:
    require_program("ipmi_sim")
    with SimulatedBmc(tmp_path / "bmc", sensors) as bmc, Relay(bmc.port) as relay:
        yield Bed(bmc, relay, tmp_path)


@pytest.fixture(name="impatient")
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds in place of five and six, where nothing comes anyway."""
    monkeypatch.setattr("collectors._ipmi.lan.MAX_REQUEST_SECONDS", 2.0)
    monkeypatch.setattr("collectors._ipmi.lan.MAX_LOGIN_SECONDS", 2.0)


def ipmitool(bmc: SimulatedBmc, *command: str) -> str:
    """What ipmitool says, as administrator."""
    login = ["-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", str(bmc.port), "-U", "admin", "-P", "test"]
    return subprocess.run(
        [require_program("ipmitool"), *login, *command], capture_output=True, text=True, timeout=MINUTE, check=False
    ).stdout


def read_peer_values(bmc: SimulatedBmc) -> dict[str, float]:
    """Every sensor's value by its name as `ipmitool sdr` gives it, in our units; those without one are left out."""
    values = {}
    for name, value, unit, status in csv.reader(ipmitool(bmc, "-c", "sdr").splitlines()):
        if status == "ok":
            number = float(value)
            values[name] = UNITS[unit](number) if unit in UNITS else number / 100 if unit == "percent" else number
    return values


def enter(bmc: SimulatedBmc, data: str) -> None:
    """Add SEL Entry: an event of the memory sensor 0x51 with these three bytes of data."""
    event = f"0x0a 0x44 0 0 2 0 0 0 0 0x20 0 4 0x0c 0x51 0x6f {data}"
    ipmitool(bmc, "raw", *event.split())


def test_thirty_two_dimms_are_what_ipmitool_says(bed: Bed) -> None:
    """Value by value, with the inlet and the fans; what is set while it runs arrives; processors are not asked for."""
    ours, theirs = bed.collect_values(), read_peer_values(bed.bmc)
    temperatures = {name: value for name, value in ours.items() if name in theirs}

    assert len(temperatures) == 32 + 1 + 4
    assert temperatures == {name: value for name, value in theirs.items() if not name.startswith("CPU")}
    assert bed.reasons() == []

    temperatures = {sensor.name: 20 + number for number, sensor in enumerate(make_dimm_sensors(32))}
    for name, value in temperatures.items():
        bed.bmc.set_reading(name, value)
    wait_until(
        lambda: temperatures.items() <= read_peer_values(bed.bmc).items(), MINUTE, "the simulator reads all its files"
    )
    assert temperatures.items() <= bed.collect_values().items()


@pytest.mark.parametrize("sensors", [[*make_dimm_sensors(1), *STRANGE]])
def test_every_conversion_is_ipmitools(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed both ways, factors with exponents, twelve linearizations, °F, K and percent, a packed name."""
    monkeypatch.setattr(
        "collectors._ipmi.sweep._PLAUSIBLE", {"fan": EVERYTHING, "memory": EVERYTHING, "other": EVERYTHING}
    )
    bed.include = ("*",)
    for raws in ((4, 200), (33, 3), (100, 129), (255, 128), (127, 1)):
        for sensor, raw in zip(STRANGE, itertools.cycle(raws), strict=False):
            bed.bmc.set_reading(sensor.name, raw)
        time.sleep(0.5)  # until the simulator has read them; not a matter of the test
        # ipmitool shows a packed name unpacked as it is, and rounds to four digits.
        theirs = {
            name if name.isascii() and name.isprintable() else "IPMI": v
            for name, v in read_peer_values(bed.bmc).items()
        }
        ours = bed.collect_values()

        assert bed.reasons() == []
        assert len(theirs) == 1 + len(STRANGE)
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=6e-4, abs=6e-4)


def test_a_sensor_that_is_not_scanned_is_missing(bed: Bed) -> None:
    """ipmitool says ns; we say nothing, its neighbours stay, and it comes back."""
    bed.collect_values()
    ipmitool(bed.bmc, "raw", "0x04", "0x28", "1", "0x80")
    without = bed.collect_values()
    assert "DIMMA1 Temp" not in read_peer_values(bed.bmc)
    assert "DIMMA1 Temp" not in without
    assert "DIMMA2 Temp" in without
    assert bed.reasons() == ["has no reading now"]

    ipmitool(bed.bmc, "raw", "0x04", "0x28", "1", "0xC0")
    assert "DIMMA1 Temp" in bed.collect_values()


def test_memory_events_are_counted_and_a_clear_is_seen(bed: Bed) -> None:
    """Entries that come while we look, a DIMM that becomes too hot, and the log cleared and filled again."""
    assert bed.collect_values()["correctable_ecc"] == 0.0
    for data in ("0x20 0xff 0x01", "0x21 0xff 0x02", "0x29 0xff 0x02"):
        enter(bed.bmc, data)
    bed.bmc.set_reading("DIMMA1 Temp", 86)
    time.sleep(0.5)  # as above
    values = bed.collect_values()
    assert [values[name] for name in ("correctable_ecc", "uncorrectable_ecc", "throttled")] == [1.0, 1.0, 1.0]
    assert values["over_temperature"] >= 1.0

    ipmitool(bed.bmc, "sel", "clear")
    wait_until(
        lambda: "no entries" in ipmitool(bed.bmc, "sel", "info") or bool(bed.collect_values()),
        MINUTE,
        "the log is cleared",
    )
    enter(bed.bmc, "0x20 0xff 0x01")
    assert bed.collect_values()["correctable_ecc"] == 2.0


def test_a_changed_repository_is_read_again(bed: Bed) -> None:
    """A sensor that is added while we run is there at the next pass with its value, and the others stay."""
    before = bed.collect_values()
    bed.bmc.add_sensor(SimulatedSensor("DIMMZ9 Temp", 51, instance=0x90))
    wait_until(lambda: read_peer_values(bed.bmc).get("DIMMZ9 Temp") == 51.0, MINUTE, "the simulator has it")

    assert bed.collect_values() == {**before, "DIMMZ9 Temp": 51.0}
    assert bed.reasons() == []


def _kill(bed: Bed) -> None:
    bed.bmc.stop()


def _revive(bed: Bed) -> None:
    bed.bmc.start()


def _hang(bed: Bed) -> None:
    bed.bmc.set_hung(True)


def _go_on(bed: Bed) -> None:
    bed.bmc.set_hung(False)


def _unplug(bed: Bed) -> None:
    bed.relay.should_drop = lambda: True


def _plug_in(bed: Bed) -> None:
    bed.relay.should_drop = lambda: False


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [(_kill, _revive), (_hang, _go_on), (_unplug, _plug_in)],
    ids=["killed and restarted", "hanging", "unplugged"],
)
def test_an_outage_is_told_and_ends_by_itself(
    bed: Bed, impatient: None, breaks: Callable[[Bed], None], mends: Callable[[Bed], None]
) -> None:
    """No value while it lasts, one reason a pass, and after it the same values with the same threads and sockets."""
    before = bed.collect_values()
    resources_before = list_open_sockets()
    for _ in range(2):
        breaks(bed)
        for _ in range(2):
            assert bed.collect_values() == {}
            assert bed.reasons() == ["no answer within 2 s"]
        mends(bed)
        assert bed.wait_until_ok() == before
    assert count_left_over(resources_before) == (set(), 0)


@pytest.mark.parametrize("sensors", [make_dimm_sensors(12)])
def test_a_bad_network_costs_time_and_no_value(bed: Bed) -> None:
    """Every seventh packet lost and the others late: each value that is told is right, and nothing is left over."""
    before = bed.collect_values()
    resources_before, turn = list_open_sockets(), itertools.count(1)
    bed.relay.delay = 0.02
    bed.relay.should_drop = lambda: next(turn) % 7 == 0
    for _ in range(3):
        assert bed.collect_values().items() <= before.items()
    _plug_in(bed)
    bed.relay.delay = 0.0
    bed.host.take_notes()

    assert bed.wait_until_ok() == before
    assert count_left_over(resources_before) == (set(), 0)


@pytest.mark.parametrize("sensors", [make_dimm_sensors(12)])
def test_answers_that_come_late_are_taken_for_no_other_sensors(bed: Bed) -> None:
    """A delay that changes all the time, longer than the first time-out too, never mixes two sensors up."""
    before, delays = bed.collect_values(), itertools.cycle((0.0, 0.9, 0.01, 1.4, 0.0))
    bed.relay.should_drop = lambda: bool(setattr(bed.relay, "delay", next(delays)))
    for _ in range(2):
        assert bed.collect_values().items() <= before.items()


def test_a_bmc_that_talks_nonsense_is_told_as_such(bed: Bed, impatient: None) -> None:
    """Something else answers on its port: no value, one reason, and no end of the process."""
    bed.collect_values()
    bed.bmc.stop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.bind(("127.0.0.1", bed.bmc.port))
        liar.settimeout(0.05)
        stop = threading.Event()

        def lie() -> None:
            lies = itertools.cycle((b"", b"\x06\x00\xff\x07" + bytes(60), os.urandom(40), b"\x06\x00\xff\x07\x06\x11"))
            while not stop.is_set():
                try:
                    _, client = liar.recvfrom(4000)
                    liar.sendto(next(lies), client)
                except TimeoutError:
                    continue

        thread = threading.Thread(target=lie)
        thread.start()
        for _ in range(3):
            assert bed.collect_values() == {}
            assert len(bed.reasons()) == 1
        stop.set()
        thread.join()
    bed.bmc.start()
    assert bed.wait_until_ok()["DIMMA1 Temp"] == 42.0


def test_a_wrong_password_is_tried_three_times(bed: Bed) -> None:
    """Then nothing is sent any more until the file changes."""
    bed.log_in_as(USER, "wrong")
    reasons = []
    for _ in range(4):
        assert bed.collect_values() == {}
        reasons += bed.reasons()
    assert [reason.rpartition("(")[2] for reason in reasons[:3]] == [f"{n} of 3 tries)" for n in (1, 2, 3)]
    packets = bed.relay.packets
    bed.collect_values()
    assert bed.relay.packets == packets
    assert "no further try until this file changes" in bed.reasons()[0]

    bed.log_in_as("nobody", PASSWORD)
    bed.collect_values()
    assert bed.reasons()[0].endswith("(1 of 3 tries)")
    bed.log_in_as(USER, PASSWORD)
    assert bed.collect_values()["DIMMA1 Temp"] == 42.0


def test_a_password_changed_on_the_bmc_is_told(bed: Bed) -> None:
    """The session is lost, the log-in refused, and well again once the file says the new one."""
    before = bed.collect_values()
    resources_before = list_open_sockets()
    bed.bmc.stop()
    bed.bmc.password = "another"
    bed.bmc.write_files()
    bed.bmc.start()
    bed.collect_values()
    bed.host.take_notes()
    assert bed.collect_values() == {}
    assert "refused the log-in" in bed.reasons()[0]

    bed.log_in_as(USER, "another")
    assert bed.wait_until_ok() == before
    assert count_left_over(resources_before) == (set(), 0)


def test_the_agent_tells_of_a_lost_bmc_once_and_goes_on(bed: Bed) -> None:
    """success falls to 0 and age grows with one log line; when the BMC is back both are well, in the same eye."""
    bed.bmc.set_reading("DIMMA1 Temp", 79)  # near its limit, so that it is asked each 10 s
    port, log = find_free_port(), bed.folder / "agent.log"
    config = bed.folder / "steadytok.yml"
    config.write_text(
        f"web: {{listen: '127.0.0.1:{port}'}}\nstate: {{dir: {bed.folder}/state}}\n"
        "sample: {stale_after: 1}\nengine: {enabled: false}\n"
        f"collectors: {{ipmi: {{address: '127.0.0.1:{bed.bmc.port}', credentials_file: {bed.file}}}}}\n"
    )

    def has_logged(line: str) -> bool:
        return line in (fetch(f"http://127.0.0.1:{port}/metrics") or "")

    command = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(config)]
    with run_process(command, log) as agent:
        wait_until(lambda: has_logged('sensor="DIMMA1 Temp"} 79'), MINUTE, "the first reading")
        assert has_logged('steadytok_collector_success{collector="ipmi"} 1')
        before = _family(agent.pid)
        bed.bmc.stop()
        wait_until(lambda: has_logged('steadytok_collector_success{collector="ipmi"} 0'), MINUTE, "failure is told")
        wait_until(lambda: not has_logged('sensor="DIMMA1 Temp"'), 2 * MINUTE, "what is old has left /metrics")
        bed.bmc.start()
        wait_until(lambda: has_logged('sensor="DIMMA1 Temp"} 79'), MINUTE, "the readings are back")
        assert _family(agent.pid) == before
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines if line.get("collector") == "ipmi"]
    assert events == ["collector failed", "collector recovered"]
    assert PASSWORD + "\n" not in log.read_text()
    assert (bed.folder / "state" / "shelf" / "ipmi-sdr.json").exists()


def _family(pid: int) -> dict[str, int]:
    """The threads and sockets of a process and its children, and the children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {child: len(os.listdir(f"/proc/{child}/task")) for child in children}
