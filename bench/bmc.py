"""
A BMC on loopback: OpenIPMI's simulator (Debian: openipmi) with any number of DIMM sensors.

It reads each sensor from a file five times a second, so writing a number to the file sets the value.
https://openipmi.sourceforge.io/, ipmi_sim(1), ipmi_lan(5), ipmi_sim_cmd(5)
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "ipmi_sim"
USER, PASSWORD = "reader", "test"
_POLL_MS = 200
_LAN_CONFIG = """name "steadytok"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 {port}
  priv_limit admin
  allowed_auths_callback none md2 md5 straight
  allowed_auths_user none md2 md5 straight
  allowed_auths_operator none md2 md5 straight
  allowed_auths_admin none md2 md5 straight
  guid a123456789abcdefa123456789abcdef
endlan
console 127.0.0.1 {console}
{serial}user 1 true "" "test" user 10 none md2 md5 straight
user 2 true "admin" "test" admin 10 none md2 md5 straight
user 3 true "{user}" "{password}" user 10 none md2 md5 straight
"""
_MANUFACTURER, _PRODUCT = 0x1291, 0x0F02


@dataclass(frozen=True)
class SimulatedSensor:
    """A Full Sensor Record and its first raw reading; thresholds are raw, 0 if not set."""

    name: str
    raw: int
    type: int = 0x01
    unit: int = 1
    units: int = 0x00
    entity: int = 0x20
    instance: int = 1
    linearization: int = 0
    m: int = 1
    b: int = 0
    r_exponent: int = 0
    b_exponent: int = 0
    lower: tuple[int, int, int] = (0, 0, 0)
    upper: tuple[int, int, int] = (0, 0, 0)
    encoded_name: bytes | None = None

    def encode_record(self, number: int, record_id: int) -> bytes:
        """Encodes the record of sensor `number`, with `record_id` in the repository; IPMI 2.0, table 43-1."""
        name = (
            self.encoded_name if self.encoded_name is not None else bytes((0xC0 | len(self.name),)) + self.name.encode()
        )
        threshold_mask = (0b111 if any(self.lower) else 0) | (0b111000 if any(self.upper) else 0)
        factors = (self.m & 0xFF, self.m >> 2 & 0xC0, self.b & 0xFF, self.b >> 2 & 0xC0, 0)
        header = (0x20, 0x00, number, self.entity, self.instance, 0x7F, 0x68, self.type, 0x01, 0x80, 0x0A, 0x80, 0x7A)
        units = (self.units, self.unit, 0x00, self.linearization)
        exponents = (self.r_exponent & 0xF) << 4 | self.b_exponent & 0xF
        analog = (0x07, 30, 95, 5, 0xFF, 0x00, *self.upper, *self.lower, 2, 2, 0, 0, 0)
        body = bytes((*header, threshold_mask, threshold_mask, *units, *factors, exponents, *analog))
        return bytes((record_id & 0xFF, record_id >> 8, 0x51, 0x01, len(body + name))) + body + name


def make_dimm_sensors(count: int) -> list[SimulatedSensor]:
    """Returns `count` DIMM temperatures, from 42 °C up, with thresholds of 78, 85 and 95 °C."""
    return [
        SimulatedSensor(f"DIMM{chr(65 + n // 2)}{n % 2 + 1} Temp", 42 + n % 30, instance=0x60 + n, upper=(95, 85, 78))
        for n in range(count)
    ]


def make_other_sensors() -> list[SimulatedSensor]:
    """Returns two processors, the inlet, and four fans with steps of 100 revolutions per minute."""
    sensors = [
        SimulatedSensor(f"CPU{n + 1} Temp", 55 + n, entity=3, instance=n + 1, upper=(105, 100, 92)) for n in (0, 1)
    ]
    sensors.append(SimulatedSensor("Inlet Temp", 24, entity=0x37, upper=(50, 45, 40)))
    return sensors + [
        SimulatedSensor(f"FAN{n + 1}", 60 + n, type=4, unit=18, entity=29, instance=n + 1, m=100, lower=(3, 5, 8))
        for n in range(4)
    ]


class SimulatedBmc:
    """A simulator, which runs within a `with` block."""

    def __init__(self, folder: Path, sensors: Sequence[SimulatedSensor], *, in_band: bool = False) -> None:
        self.folder = folder
        self.sensors = list(sensors)
        self.port = _find_free_port(socket.SOCK_DGRAM)
        self._console_port = _find_free_port(socket.SOCK_STREAM)
        self.serial_port = _find_free_port(socket.SOCK_STREAM) if in_band else None
        self.password = PASSWORD
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SimulatedBmc:
        self.write_files()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def write_files(self) -> None:
        """Writes the configuration and the files of the sensors."""
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        (self.folder / "sensors").mkdir(exist_ok=True)
        serial = f"serial kcs 127.0.0.1 {self.serial_port} codec VM\n" if self.serial_port else ""
        lan = _LAN_CONFIG.format(
            port=self.port, serial=serial, console=self._console_port, user=USER, password=self.password
        )
        (self.folder / "lan.conf").write_text(lan)
        for sensor in self.sensors:
            self.set_reading(sensor.name, sensor.raw)
        (self.folder / "sim.emu").write_text("\n".join(self._iter_commands()) + "\n")

    def set_reading(self, name: str, raw: int) -> None:
        """Sets a sensor's raw reading; the simulator sees it within 0.4 s."""
        path = self._get_sensor_path(name)
        path.with_suffix(".new").write_text(f"{raw}\n")
        path.with_suffix(".new").rename(path)  # atomic: the simulator must not read an empty file

    def _get_sensor_path(self, name: str) -> Path:
        return self.folder / "sensors" / "".join(letter if letter.isalnum() else "_" for letter in name)

    def add_sensor(self, sensor: SimulatedSensor) -> None:
        """Adds a sensor at run time, which changes the repository's time of the last addition."""
        self.sensors.append(sensor)
        self.set_reading(sensor.name, sensor.raw)
        commands = list(self._iter_sensor_commands(len(self.sensors), sensor))
        with socket.create_connection(("127.0.0.1", self._console_port), 5) as console:
            console.sendall("".join(f"{command}\n" for command in commands).encode())
            output = b""
            while output.count(b"\n\r> ") < len(commands):  # the console prints a prompt after each command
                output += console.recv(4096)

    def _iter_commands(self) -> Iterator[str]:
        yield "mc_setbmc 0x20"
        yield f"mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f {_MANUFACTURER:#x} {_PRODUCT:#x}"
        yield "sel_enable 0x20 1000 0x0a"
        for number, sensor in enumerate(self.sensors, 1):
            yield from self._iter_sensor_commands(number, sensor)
        yield "mc_enable 0x20"

    def _iter_sensor_commands(self, number: int, sensor: SimulatedSensor) -> Iterator[str]:
        record = sensor.encode_record(number, number)
        yield f"main_sdr_add 0x20 {' '.join(f'0x{byte:02x}' for byte in record)}"
        path = self._get_sensor_path(sensor.name)
        yield f'sensor_add 0x20 0 {number} {sensor.type:#x} 0x01 poll {_POLL_MS} file "{path}"'
        settable_mask = ("111" if any(sensor.upper) else "000") + ("111" if any(sensor.lower) else "000")
        thresholds = " ".join(f"0x{raw:02x}" for raw in (*sensor.upper, *sensor.lower))
        yield f"sensor_set_threshold 0x20 0 {number} settable {settable_mask} {thresholds}"
        yield f"sensor_set_event_support 0x20 0 {number} enable scanning per-state {_format_event_masks(sensor)}"

    def start(self) -> None:
        """Starts the simulator, and waits until it answers a ping."""
        arguments = [PROGRAM, "-c", "lan.conf", "-f", "sim.emu", "-s", "state", "-n"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while not _is_answering(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{PROGRAM} does not answer: {(self.folder / 'log').read_text()[-500:]}")

    def stop(self) -> None:
        """Kills the simulator, like a BMC that loses power."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        (self.folder / "state").mkdir()

    def set_hung(self, is_hung: bool) -> None:
        """Makes the simulator hang, or continue."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP if is_hung else signal.SIGCONT)


def _format_event_masks(sensor: SimulatedSensor) -> str:
    mask = "000111111000000" if any(sensor.upper) else "000000000111111" if any(sensor.lower) else "000000000000000"
    return " ".join([mask] * 4)


def _is_answering(port: int) -> bool:
    """Returns True if an RMCP presence ping is answered. ASF 2.0, section 3.2.4.2."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.sendto(bytes.fromhex("0600ff06000011be80000000"), ("127.0.0.1", port))
            return bool(probe.recv(100))
        except OSError:
            time.sleep(0.05)
            return False


def _find_free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
