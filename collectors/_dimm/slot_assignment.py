"""
Assigns each memory sensor to a slot, so that a module has one name in all sources, and finds its NUMA node.

The first match counts:

1. the operator's map
2. the module's serial number, found in its SPD and in the firmware's table
3. a name equal to a slot's
4. a name with the same parts as a slot's

A sensor that fits no slot, or more than one, keeps its own name: a guess would send somebody to the wrong module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from collectors._dimm.sensor_names import Slot, matches_slot, normalize_name, parse_slot, parse_slots
from collectors._dimm.slots import KnownSlot, SlotDevice, list_slot_names, make_unique_names
from collectors._host.host import Host
from collectors._host.nodes import list_nodes, read_nodes_by_package


class DimmSensor(NamedTuple):
    """One sensor: its name, unique within its source, its location's name, and its module's serial number."""

    source: str
    name: str
    location: str
    serial_number: str = ""
    socket: int | None = None
    """The processor, counted from 0, where the source knows it."""

    @property
    def key(self) -> str:
        """The sensor's key in the operator's map."""
        return f"{self.source}/{self.name}"


class SlotAssignment(NamedTuple):
    """A module's name, its node (empty where unknown), and why the sensor fits no slot (empty where it fits)."""

    dimm: str
    node: str = ""
    reason: str = ""


class SlotAssigner:
    """
    Assigns sensors to slots; an assignment is decided at a sensor's first reading and never changes.

    `names` maps SOURCE/SENSOR to a module, `configured_nodes` a module to its node. `devices` are the firmware's table,
    which the agent itself may not be allowed to read. Reads the nodes once.
    """

    def __init__(
        self, host: Host, devices: Sequence[SlotDevice], names: Mapping[str, str], configured_nodes: Mapping[str, int]
    ) -> None:
        self._names, self._configured_nodes = names, configured_nodes
        self._all_nodes = list_nodes(host)
        self._packages = read_nodes_by_package(host) if len(self._all_nodes) > 1 else {}
        self.known_slots = tuple(self._make_slots(devices))
        self._assignments: dict[str, SlotAssignment] = {}
        self._owners: dict[tuple[str, str], list[str]] = {}

    def assign(self, sensors: Sequence[DimmSensor], *, shared: bool = False) -> list[SlotAssignment]:
        """Returns the assignments of sensors of one source; `shared`: several sensors may belong to one module."""
        if not all(sensor.key in self._assignments for sensor in sensors):
            # All names are parsed together, since one name explains another.
            slots_by_location = parse_slots(sensor.location for sensor in sensors)
            new = [sensor for sensor in sensors if sensor.key not in self._assignments]
            for sensor in sorted(new, key=lambda sensor: sensor.key not in self._names):  # configured ones first
                assignment = self._decide_assignment(sensor, slots_by_location)
                self._assignments[sensor.key] = self._claim(sensor, assignment, shared)
        return [self._assignments[sensor.key] for sensor in sensors]

    def _claim(self, sensor: DimmSensor, assignment: SlotAssignment, shared: bool) -> SlotAssignment:
        """Returns the assignment, or the sensor's own name where another sensor of its source has the module."""
        owners = self._owners.setdefault((sensor.source, assignment.dimm), [])
        if owners and not shared:
            assignment = SlotAssignment(sensor.name, assignment.node, f"{owners[0]} already has {assignment.dimm}")
        owners.append(sensor.name)
        return assignment

    def count_sensors(self, source: str, dimm: str) -> int:
        """Returns how many sensors of a source belong to a module."""
        return len(self._owners.get((source, dimm), ()))

    def list_unseen_sensors(self, source: str) -> Iterator[str]:
        """Yields the sensors of a source that the operator's map names and no pass has found."""
        unseen = (name for name in self._names if name.startswith(f"{source}/") and name not in self._assignments)
        return (name.removeprefix(f"{source}/") for name in unseen)

    def _decide_assignment(self, sensor: DimmSensor, slots_by_location: Mapping[str, Slot]) -> SlotAssignment:
        configured_dimm = self._names.get(sensor.key)
        slot = slots_by_location[sensor.location]
        matching = (
            self._find_matching(sensor, slot)
            if configured_dimm is None
            else [each for each in self.known_slots if each.dimm == configured_dimm]
        )
        if len(matching) == 1:
            return SlotAssignment(matching[0].dimm, self._get_configured_node(matching[0].dimm) or matching[0].node)
        dimm = configured_dimm or slot.name
        node = self._get_configured_node(dimm) or self._find_node_of_socket(sensor, slot, slots_by_location.values())
        reason = "" if configured_dimm or slot.is_group else self._explain_mismatch(sensor, matching)
        return SlotAssignment(dimm, node, reason)

    def _find_matching(self, sensor: DimmSensor, slot: Slot) -> list[KnownSlot]:
        serial = sensor.serial_number.upper()
        by_serial = [each for each in self.known_slots if serial and each.device.serial_number.upper() == serial]
        if by_serial:
            return by_serial
        name = normalize_name(sensor.location)
        by_name = [known_slot for known_slot in self.known_slots if name and name in list_slot_names(known_slot)]
        return by_name or [known_slot for known_slot in self.known_slots if matches_slot(slot, known_slot.slot)]

    def _explain_mismatch(self, sensor: DimmSensor, matching: Sequence[KnownSlot]) -> str:
        if not self.known_slots:
            return ""  # no table to match with; a missing table is reported once, not for each sensor
        if matching:
            return f"may be {' or '.join(known_slot.dimm for known_slot in matching)}"
        if sensor.serial_number:
            return f"no slot has its serial number {sensor.serial_number}, or its name"
        return "no slot has its name" if sensor.source != "hwmon" else "no serial number can be read from its SPD"

    def _get_configured_node(self, dimm: str) -> str:
        configured_node = self._configured_nodes.get(dimm)
        if configured_node is not None:
            return str(configured_node)
        return self._all_nodes[0] if len(self._all_nodes) == 1 else ""

    def _find_node_of_socket(self, sensor: DimmSensor, slot: Slot, others: Iterable[Slot]) -> str:
        if sensor.socket is not None:
            return self._find_node_of_package(sensor.socket)
        numbers = self._list_socket_numbers(each.slot for each in self.known_slots) or self._list_socket_numbers(others)
        return self._find_node_of_package(numbers.index(slot.socket)) if slot.socket in numbers else ""

    def _list_socket_numbers(self, parsed_slots: Iterable[Slot]) -> list[int]:
        """Returns the processors' numbers in names, from 0 or from 1; none unless there is one for each processor."""
        numbers = sorted({slot.socket for slot in parsed_slots if slot.socket is not None})
        return numbers if len(numbers) == len(self._packages) else []

    def _find_node_of_package(self, index: int) -> str:
        """Returns the node of a processor that has only one; no name says which quarter of a processor a slot is on."""
        packages = sorted(self._packages)
        package_nodes = self._packages[packages[index]] if index < len(packages) else []
        return package_nodes[0] if len(package_nodes) == 1 else ""

    def _make_slots(self, devices: Sequence[SlotDevice]) -> Iterator[KnownSlot]:
        names = make_unique_names(devices)
        parsed_slots = [parse_slot(name) for name in names]
        numbers = self._list_socket_numbers(parsed_slots)
        for name, parsed_slot, device in zip(names, parsed_slots, devices, strict=True):
            node = (
                self._find_node_of_package(numbers.index(parsed_slot.socket)) if parsed_slot.socket in numbers else ""
            )
            yield KnownSlot(name, parsed_slot, device, self._get_configured_node(name) or node or device.node)
