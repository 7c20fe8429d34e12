"""
DIMM temperature, refresh rate and power, and memory bandwidth, from AMD EPYC processors (Zen 3 and later).

Sends messages through /dev/hsmp (`modprobe amd_hsmp`; EPYC only, and not where the firmware disables HSMP). Each
message takes the processor 10 µs to 1 ms. A socket that does not answer costs one message, 0.1 s, in each pass.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from collectors import Host, Reading, gauge
from collectors._host.files import means_absent
from collectors._kernel.hsmp import PATH, HsmpMessage, Port, open_port

INTERVAL = 2.0
DEADLINE = 1.5
PRIVILEGED = True

DIMM_TEMPERATURE = gauge(
    "steadytok_hsmp_dimm_temperature_celsius", "Temperature of a DIMM as the processor read it last."
)
DIMM_AGE = gauge("steadytok_hsmp_dimm_temperature_age_seconds", "Age of the temperature when it was read, in seconds.")
DIMM_POWER = gauge("steadytok_hsmp_dimm_power_watts", "Power that a DIMM takes.")
DIMM_REFRESH = gauge(
    "steadytok_hsmp_dimm_refresh_rate_ratio",
    "Refreshes of a DIMM in terms of its normal rate: 2 when it is hot, which takes about 7 % of the bandwidth.",
)
BANDWIDTH = gauge("steadytok_hsmp_ddr_bandwidth_bytes_per_second", "Memory bandwidth of a socket that is used now.")
BANDWIDTH_MAX = gauge(
    "steadytok_hsmp_ddr_bandwidth_max_bytes_per_second", "Memory bandwidth that a socket could have in theory."
)
BANDWIDTH_USED = gauge(
    "steadytok_hsmp_ddr_bandwidth_used_ratio", "Part of a socket's memory bandwidth that is used now."
)
POWER = gauge("steadytok_hsmp_socket_power_watts", "Power that a socket takes on average.")
PROCHOT = gauge(
    "steadytok_hsmp_prochot", "Thermal slowdown: 1 while the socket, or another part of the board, is too hot."
)
METRICS = (
    *(DIMM_TEMPERATURE, DIMM_AGE, DIMM_POWER, DIMM_REFRESH),
    *(BANDWIDTH, BANDWIDTH_MAX, BANDWIDTH_USED, POWER, PROCHOT),
)
HINT_ABSENT = "AMD EPYC from Zen 3 on: sudo modprobe amd_hsmp, with HSMP enabled in the firmware"

_SOCKETS = 8
_BANDWIDTH_SINCE, _DIMMS_SINCE = 3, 5  # minimum versions of the protocol
# A DIMM's address: bits 7 and 6 are 10 for its first sensor, then its position in the channel, then the channel.
_ADDRESSES = tuple(0x80 | dimm << 4 | channel for dimm in range(2) for channel in range(16))
_REFUSAL_ERRNOS = (errno.ENODEV, errno.ENOMSG, errno.EINVAL)
_MIN_CELSIUS, _MAX_CELSIUS = -40.0, 150.0  # °C; no working server is outside
_GIGA = 1e9  # GB/s: the header says Gbps, but twelve bits could not hold the 4,915 Gbit/s of an EPYC 9005


class Thermal(NamedTuple):
    """The answer to DIMM_THERMAL: °C, seconds since the measurement, and the address of the DIMM."""

    celsius: float
    age: float
    address: int


class _HsmpState:
    """State from pass to pass: the port, each socket's protocol version and its DIMMs' addresses."""

    def __init__(self) -> None:
        self.port: Port | None = None
        self.unknown_sockets = set(range(_SOCKETS))
        self.versions: dict[int, int] = {}
        self.dimms: dict[int, tuple[int, ...]] = {}


def collect(host: Host) -> Iterator[Reading]:
    """Reads the sockets; detects sockets and DIMMs once."""
    state = host.get_state(_HsmpState)
    if state.port is None or not host.live:  # a recording is read again in each pass
        state.port = open_port(host)
    if state.port is None:
        return
    _detect_sockets(host, state, state.port)
    for socket, version in state.versions.items():
        try:
            yield from _collect_socket(host, state, state.port, socket, version)
        except OSError as error:  # no answer: the other messages would wait as long
            host.note(f"{PATH} socket {socket}", error.strerror or str(error))


def _detect_sockets(host: Host, state: _HsmpState, port: Port) -> None:
    """
    Reads each socket's protocol version; a socket that does not answer is tried again in the next pass.

    So are all where none has answered: a driver that has just been loaded may say ENODEV for each.
    """
    if not state.versions:
        state.unknown_sockets = set(range(_SOCKETS))
    for socket in sorted(state.unknown_sockets):
        try:
            state.versions[socket] = port.ask(socket, HsmpMessage.PROTOCOL_VERSION)
        except OSError as error:
            if not means_absent(error):  # ENODEV: no such socket; ENOTTY: a driver without this interface
                host.note(f"{PATH} socket {socket}", error.strerror or str(error))
                continue
        state.unknown_sockets.remove(socket)


def _collect_socket(host: Host, state: _HsmpState, port: Port, socket: int, version: int) -> Iterator[Reading]:
    labels = {"socket": str(socket)}
    power = _read_word(host, port, socket, HsmpMessage.SOCKET_POWER)
    yield POWER.sample(None if power is None else power / 1000, **labels)
    prochot = _read_word(host, port, socket, HsmpMessage.PROCHOT)
    yield PROCHOT.sample(None if prochot is None else float(prochot != 0), **labels)
    if version >= _BANDWIDTH_SINCE:
        yield from _collect_bandwidth(_read_word(host, port, socket, HsmpMessage.DDR_BANDWIDTH), labels)
    if version >= _DIMMS_SINCE:
        if socket not in state.dimms:
            state.dimms[socket] = tuple(address for address in _ADDRESSES if _is_present(port, socket, address))
        for address in state.dimms[socket]:
            yield from _collect_dimm(host, port, socket, address)


def _read_word(host: Host, port: Port, socket: int, message: HsmpMessage, *arguments: int) -> int | None:
    """Returns the answer; None, with a note, where it is refused. Raises OSError where the socket does not answer."""
    try:
        return port.ask(socket, message, *arguments)
    except OSError as error:
        if error.errno not in _REFUSAL_ERRNOS:
            raise
        suffix = "".join(f" 0x{argument:02X}" for argument in arguments)
        return host.note(f"{PATH} socket {socket} {message.name}{suffix}", error.strerror or str(error))


def _is_present(port: Port, socket: int, address: int) -> bool:
    try:
        word = port.ask(socket, HsmpMessage.DIMM_THERMAL, address)
    except OSError as error:
        if error.errno not in _REFUSAL_ERRNOS:
            raise
        return False
    return parse_thermal(word).address == address and word != address  # an address without a reading has no DIMM


def _collect_bandwidth(word: int | None, labels: dict[str, str]) -> Iterator[Reading]:
    if word is None or word >> 20 == 0:  # without a maximum the other fields are empty
        yield None
        return
    yield BANDWIDTH_MAX.sample((word >> 20) * _GIGA, **labels)
    yield BANDWIDTH.sample((word >> 8 & 0xFFF) * _GIGA, **labels)
    yield BANDWIDTH_USED.sample((word & 0xFF) / 100, **labels)


def _collect_dimm(host: Host, port: Port, socket: int, address: int) -> Iterator[Reading]:
    labels = {"socket": str(socket), "channel": str(address & 0xF), "dimm": str(address >> 4 & 0x3)}
    word = _read_word(host, port, socket, HsmpMessage.DIMM_THERMAL, address)
    reading = None if word is None else _validate_thermal(host, socket, address, parse_thermal(word))
    yield DIMM_TEMPERATURE.sample(reading and reading.celsius, **labels)
    yield DIMM_AGE.sample(reading and reading.age, **labels)
    word = _read_word(host, port, socket, HsmpMessage.DIMM_POWER, address)
    is_valid = word is not None and word & 0xFF == address
    yield DIMM_POWER.sample((word >> 17) / 1000 if is_valid and word is not None else None, **labels)
    word = _read_word(host, port, socket, HsmpMessage.DIMM_TEMPERATURE_RANGE, address)
    yield DIMM_REFRESH.sample(None if word is None else 2.0 if word & 0x8 else 1.0, **labels)


def parse_thermal(word: int) -> Thermal:
    """Splits the word: eleven bits of quarters of a degree, signed; nine bits of milliseconds; the address."""
    quarters = (word >> 21 & 0x7FF) - (word >> 20 & 0x800)
    return Thermal(quarters / 4, (word >> 8 & 0x1FF) / 1000, word & 0xFF)


def _validate_thermal(host: Host, socket: int, address: int, reading: Thermal) -> Thermal | None:
    subject = f"{PATH} socket {socket} DIMM 0x{address:02X}"
    if reading.address != address:
        return host.note(subject, f"answered for 0x{reading.address:02X}")
    if not _MIN_CELSIUS <= reading.celsius <= _MAX_CELSIUS:
        return host.note(subject, f"expected {_MIN_CELSIUS:g} to {_MAX_CELSIUS:g} °C, found {reading.celsius:g}")
    return reading
