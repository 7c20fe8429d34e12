"""AMD's HSMP: the words of its answers, sockets that refuse or do not answer, implausible values."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping

import pytest

from collectors import Host, Reading, hsmp
from collectors._kernel.hsmp import HsmpMessage, open_port

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
DIMM = 'channel="2",dimm="1",socket="0"'
CELSIUS, AGE = (f"steadytok_hsmp_dimm_temperature_{name}{{{DIMM}}}" for name in ("celsius", "age_seconds"))


def encode_thermal(celsius: float, milliseconds: int, address: int) -> int:
    """Encodes the answer to DIMM_THERMAL."""
    return (round(celsius * 4) & 0x7FF) << 21 | milliseconds << 8 | address


def make_recording(machine: Machine, *lines: str) -> Host:
    return machine({"dev/hsmp": "\n".join(lines)})


class Port:
    """A port whose answers are a table; it refuses other messages as the driver does."""

    def __init__(self, answers: Mapping[tuple[int | HsmpMessage, ...], int]) -> None:
        self.answers = dict(answers)
        self.faults: dict[int, int] = {}
        self.requests: list[tuple[int, HsmpMessage]] = []

    def ask(self, socket: int, message: HsmpMessage, *arguments: int) -> int:
        self.requests.append((socket, message))
        code = self.faults.get(socket)
        if code is None and (socket, message, *arguments) in self.answers:
            return self.answers[socket, message, *arguments]
        has_socket = any(key[0] == socket for key in self.answers)
        code = code or (errno.EINVAL if has_socket else errno.ENODEV)
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("celsius", "word"),
    [(0.25, 0x0020_0092), (82.25, 0x2920_0092), (-0.25, 0xFFE0_0092), (-40.0, 0xEC00_0092), (150.0, 0x4B00_0092)],
)
def test_quarters_of_a_degree_are_signed(celsius: float, word: int) -> None:
    """Bits 31 to 21 are quarters of a degree in two's complement."""
    assert hsmp.parse_thermal(word) == (celsius, 0.0, 0x92)
    assert encode_thermal(celsius, 0, 0x92) == word


@pytest.mark.parametrize(("milliseconds", "age"), [(0, 0.0), (1, 0.001), (511, 0.511)])
def test_an_old_reading_says_so(machine: Machine, series: Series, milliseconds: int, age: float) -> None:
    """Bits 16 to 8 are the age of the processor's reading."""
    host = make_recording(machine, "0 03: 5", f"0 18 92: {encode_thermal(55.5, milliseconds, 0x92):x}")

    values = series(hsmp.collect(host))
    assert (values[CELSIUS], values[AGE]) == (55.5, age)


@pytest.mark.parametrize("word", [0x0000_0092, encode_thermal(50, 9, 0x93)])
def test_an_address_without_a_module_is_none(machine: Machine, series: Series, word: int) -> None:
    """An answer without a reading, or for another address, is no DIMM of 0 °C."""
    assert not [
        name
        for name in series(hsmp.collect(make_recording(machine, "0 03: 5", f"0 18 92: {word:x}")))
        if "dimm" in name
    ]


def test_a_module_that_goes_wrong_is_missing(machine: Machine, series: Series) -> None:
    """A DIMM that answers for another address, or with an implausible value, has a note and no value."""
    host = make_recording(machine, "0 03: 5", f"0 18 92: {encode_thermal(50, 9, 0x92):x}")
    assert CELSIUS in series(hsmp.collect(host))

    for word, reason in (
        (encode_thermal(50, 9, 0x80), "answered for 0x80"),
        (encode_thermal(200, 9, 0x92), "found 200"),
    ):
        assert CELSIUS not in series(hsmp.collect(make_recording(machine, "0 03: 5", f"0 18 92: {word:x}")))
        assert any(reason in note.reason for note in host.take_notes())


@pytest.mark.parametrize(("range_and_rate", "ratio"), [(0x1, 1.0), (0x5, 1.0), (0x9, 2.0), (0xD, 2.0)])
def test_doubled_refreshes_are_seen(machine: Machine, series: Series, range_and_rate: int, ratio: float) -> None:
    """Bit 3 is the refresh rate, whatever the temperature range below it."""
    host = make_recording(
        machine, "0 03: 5", f"0 18 92: {encode_thermal(90, 9, 0x92):x}", f"0 16 92: {range_and_rate:x}"
    )

    assert series(hsmp.collect(host))[f"steadytok_hsmp_dimm_refresh_rate_ratio{{{DIMM}}}"] == ratio


def test_a_dimms_power_is_in_watts(machine: Machine, series: Series) -> None:
    """Bits 31 to 17 are milliwatts; an answer for another address gives no value."""
    lines = ("0 03: 5", f"0 18 92: {encode_thermal(50, 9, 0x92):x}")
    power = f"steadytok_hsmp_dimm_power_watts{{{DIMM}}}"
    first = series(hsmp.collect(make_recording(machine, *lines, f"0 17 92: {12_345 << 17 | 9 << 8 | 0x92:x}")))
    second = series(hsmp.collect(make_recording(machine, *lines, f"0 17 92: {12_345 << 17 | 9 << 8 | 0x93:x}")))

    assert (first[power], second.get(power)) == (12.345, None)


def test_bandwidth_of_the_largest_processor_fits(machine: Machine, series: Series) -> None:
    """An EPYC 9005 has 614 GB/s; without a maximum the other fields are empty."""
    values = series(
        hsmp.collect(make_recording(machine, "0 03: 6", f"0 14: {614 << 20 | 307 << 8 | 50:x}", "1 03: 6", "1 14: 64"))
    )

    assert values['steadytok_hsmp_ddr_bandwidth_max_bytes_per_second{socket="0"}'] == 614e9
    assert values['steadytok_hsmp_ddr_bandwidth_bytes_per_second{socket="0"}'] == 307e9
    assert values['steadytok_hsmp_ddr_bandwidth_used_ratio{socket="0"}'] == 0.5
    assert not [name for name in values if "bandwidth" in name and 'socket="1"' in name]


@pytest.mark.parametrize(("version", "bandwidth", "dimms"), [(2, False, False), (3, True, False), (5, True, True)])
def test_an_older_protocol_is_not_asked_for_more(
    machine: Machine, series: Series, version: int, bandwidth: bool, dimms: bool
) -> None:
    """Bandwidth needs version 3 and DIMMs version 5: older sockets are not asked, and leave no note."""
    lines = (f"0 03: {version}", "0 04: 1", "0 0b: 0", "0 14: 1cc0a223", f"0 18 92: {encode_thermal(50, 9, 0x92):x}")
    host = make_recording(machine, *lines, "0 17 92: 92", "0 16 92: 1")
    values = series(hsmp.collect(host))

    assert any("bandwidth" in name for name in values) is bandwidth
    assert (CELSIUS in values) is dimms
    assert host.take_notes() == []


def test_a_socket_that_does_not_answer_costs_one_message(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message times out after a tenth of a second: the rest of that socket is skipped, the other one is read."""
    answers: dict[tuple[int | HsmpMessage, ...], int] = {
        (socket, HsmpMessage.PROTOCOL_VERSION): 5 for socket in range(2)
    }
    for socket in range(2):
        answers |= {(socket, HsmpMessage.SOCKET_POWER): 200_000, (socket, HsmpMessage.PROCHOT): 0}
        answers |= {(socket, HsmpMessage.DIMM_THERMAL, 0x80): encode_thermal(60, 9, 0x80)}
    port = Port(answers)
    monkeypatch.setattr(hsmp, "open_port", lambda host: port)
    host = Host("/nowhere")
    assert len([name for name in series(hsmp.collect(host)) if "dimm_temperature_celsius" in name]) == 2

    port.faults, port.requests = {0: errno.ETIMEDOUT}, []
    values = series(hsmp.collect(host))
    assert len([request for request in port.requests if request[0] == 0]) == 1
    assert [name for name in values if "dimm_temperature_celsius" in name] == [
        'steadytok_hsmp_dimm_temperature_celsius{channel="0",dimm="0",socket="1"}'
    ]
    assert "Connection timed out" in {note.reason for note in host.take_notes()}

    port.faults = {}
    assert len([name for name in series(hsmp.collect(host)) if "dimm_temperature_celsius" in name]) == 2


def test_a_socket_that_is_late_at_first_is_found_later(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ENODEV means that there is no such socket."""
    port = Port({(0, HsmpMessage.PROTOCOL_VERSION): 5, (0, HsmpMessage.SOCKET_POWER): 1})
    port.faults = {0: errno.ETIMEDOUT}
    monkeypatch.setattr(hsmp, "open_port", lambda host: port)
    host = Host("/nowhere")

    assert series(hsmp.collect(host)) == {}
    port.faults = {}
    assert series(hsmp.collect(host)) == {'steadytok_hsmp_socket_power_watts{socket="0"}': 0.001}


def test_without_the_device_there_is_nothing(machine: Machine) -> None:
    """Most machines have no such device, and that is no fault."""
    host = machine({})

    assert open_port(host) is None
    assert list(hsmp.collect(host)) == []
    assert host.take_notes() == []
