"""
Where the sensor of a memory module is: one name for one module whoever measured it, and its NUMA node.

In this order: the operator's map; the module's serial number, which its SPD and the firmware's table both have; a name
that is a slot's name; a name that says the same as a slot's name. What fits no slot, or more than one, keeps the
sensor's own name: a guess would send somebody to the wrong module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from collectors._dimm.sensor_names import Slot, cleaned, folded, same, slot, slots
from collectors._host.host import Host
from collectors._host.nodes import nodes, nodes_by_package


class Sensor(NamedTuple):
    """One sensor: its name, which no other of its source has, what is said of its place, and its module's number."""

    source: str
    name: str
    said: str
    serial_number: str = ""
    socket: int | None = None
    """The processor, counted from 0, where the source itself knows."""

    @property
    def key(self) -> str:
        """How the operator's map calls it."""
        return f"{self.source}/{self.name}"


class Place(NamedTuple):
    """The name of a module, its node (empty where that is not known), and why it fits no slot (empty where it does)."""

    dimm: str
    node: str = ""
    reason: str = ""


class Device(NamedTuple):
    """A slot as the collector dmi tells of it, empty where it does not; `node` is the one that its addresses are of."""

    handle: str
    locator: str = ""
    bank: str = ""
    manufacturer: str = ""
    part_number: str = ""
    serial_number: str = ""
    type: str = ""
    node: str = ""
    filled: bool = False
    """Whether a module of known size is in it."""


class _Known(NamedTuple):
    """A slot that the firmware's table tells of."""

    dimm: str
    slot: Slot
    device: Device
    node: str


class Places:
    """
    The places of all sensors; each is decided when its sensor is first seen and stays as long as this lives.

    `names` maps SOURCE/SENSOR to a module, `nodes_told` a module to its node; `devices` are the firmware's table, which
    the agent itself may not be allowed to read. Reads the nodes once.
    """

    def __init__(
        self, host: Host, devices: Sequence[Device], names: Mapping[str, str], nodes_told: Mapping[str, int]
    ) -> None:
        self._names, self._nodes_told = names, nodes_told
        self._all_nodes = nodes(host)
        self._packages = nodes_by_package(host) if len(self._all_nodes) > 1 else {}
        self.known = tuple(self._slots(devices))
        self._placed: dict[str, Place] = {}
        self._owners: dict[tuple[str, str], list[str]] = {}

    def place(self, sensors: Sequence[Sensor], *, shared: bool = False) -> list[Place]:
        """The place of each, all of one source; `shared`: several of them may be of one module."""
        if not all(sensor.key in self._placed for sensor in sensors):
            said = slots(sensor.said for sensor in sensors)  # of all: one name explains another
            new = [sensor for sensor in sensors if sensor.key not in self._placed]
            for sensor in sorted(new, key=lambda sensor: sensor.key not in self._names):  # the operator's go first
                self._placed[sensor.key] = self._claimed(sensor, self._decide(sensor, said), shared)
        return [self._placed[sensor.key] for sensor in sensors]

    def _claimed(self, sensor: Sensor, place: Place, shared: bool) -> Place:
        """The place, or the sensor's own name where another one of its source is there already."""
        owners = self._owners.setdefault((sensor.source, place.dimm), [])
        if owners and not shared:
            place = Place(sensor.name, place.node, f"{owners[0]} is of {place.dimm} already")
        owners.append(sensor.name)
        return place

    def sharing(self, source: str, dimm: str) -> int:
        """How many sensors of a source are of a module."""
        return len(self._owners.get((source, dimm), ()))

    def strangers(self, source: str) -> Iterator[str]:
        """The sensors of a source that the operator's map names and nobody has seen."""
        unseen = (name for name in self._names if name.startswith(f"{source}/") and name not in self._placed)
        return (name.removeprefix(f"{source}/") for name in unseen)

    def _decide(self, sensor: Sensor, said: Mapping[str, Slot]) -> Place:
        told = self._names.get(sensor.key)
        slot = said[sensor.said]
        fitting = self._fitting(sensor, slot) if told is None else [k for k in self.known if k.dimm == told]
        if len(fitting) == 1:
            return Place(fitting[0].dimm, self._node(fitting[0].dimm) or fitting[0].node)
        dimm = told or slot.name
        node = self._node(dimm) or self._of_socket(sensor, slot, said.values())
        return Place(dimm, node, "" if told or slot.group else self._reason(sensor, fitting))

    def _fitting(self, sensor: Sensor, slot: Slot) -> list[_Known]:
        serial = sensor.serial_number.upper()
        by_serial = [known for known in self.known if serial and known.device.serial_number.upper() == serial]
        if by_serial:
            return by_serial
        name = folded(sensor.said)
        by_name = [known for known in self.known if name and name in _names(known)]
        return by_name or [known for known in self.known if same(slot, known.slot)]

    def _reason(self, sensor: Sensor, fitting: Sequence[_Known]) -> str:
        if not self.known:
            return ""  # nothing to be placed in: that the table is missing is told once, and not for each sensor
        if fitting:
            found = f"may be {' or '.join(known.dimm for known in fitting)}"
        elif sensor.serial_number:
            found = f"no slot has its serial number {sensor.serial_number}, or its name"
        else:
            found = "no slot has its name" if sensor.source != "hwmon" else "no serial number can be read from its SPD"
        return found

    def _node(self, dimm: str) -> str:
        told = self._nodes_told.get(dimm)
        if told is not None:
            return str(told)
        return self._all_nodes[0] if len(self._all_nodes) == 1 else ""

    def _of_socket(self, sensor: Sensor, slot: Slot, others: Iterable[Slot]) -> str:
        if sensor.socket is not None:
            return self._of_package(sensor.socket)
        numbers = self._numbers(known.slot for known in self.known) or self._numbers(others)
        return self._of_package(numbers.index(slot.socket)) if slot.socket in numbers else ""

    def _numbers(self, said: Iterable[Slot]) -> list[int]:
        """The processors as names count them, from 0 or from 1; none where they are not as many as there are."""
        numbers = sorted({slot.socket for slot in said if slot.socket is not None})
        return numbers if len(numbers) == len(self._packages) else []

    def _of_package(self, index: int) -> str:
        """The node of a processor that has only one: which quarter of it a slot is of, no name tells."""
        packages = sorted(self._packages)
        found = self._packages[packages[index]] if index < len(packages) else []
        return found[0] if len(found) == 1 else ""

    def _slots(self, devices: Sequence[Device]) -> Iterator[_Known]:
        names = _unique(devices)
        said = [slot(name) for name in names]
        numbers = self._numbers(said)
        for name, each, device in zip(names, said, devices, strict=True):
            node = self._of_package(numbers.index(each.socket)) if each.socket in numbers else ""
            yield _Known(name, each, device, self._node(name) or node or device.node)


def _names(known: _Known) -> tuple[str, ...]:
    """What a slot may be called; ghes_edac writes bank and locator one behind the other."""
    return folded(known.dimm), folded(f"{known.device.bank} {known.device.locator}")


def _unique(devices: Sequence[Device]) -> list[str]:
    """A name for each slot: what is printed beside it, with its bank or its handle where that is not unique."""
    locators = Counter(device.locator for device in devices)
    both = Counter((device.bank, device.locator) for device in devices)
    names = []
    for device in devices:
        name = device.locator if locators[device.locator] == 1 else f"{device.bank} {device.locator}".strip()
        unique = name and both[device.bank, device.locator] == 1
        names.append(cleaned(name) if unique else f"{name} {device.handle}".strip())
    return names
