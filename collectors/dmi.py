"""
Memory modules in the firmware's table: slot, size, speed, manufacturer, part and serial number.

Reads sys/firmware/dmi/tables/DMI, which only root may. https://www.dmtf.org/standards/smbios
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from collectors import Host, Reading, gauge
from collectors._dimm.smbios import MemoryDevice, Ranges, read_memory_devices
from collectors._host.nodes import read_blocks_by_node

INTERVAL = 60.0
PRIVILEGED = True

SIZE = gauge("steadytok_dmi_memory_size_bytes", "Size of the memory module in a slot; 0 is an empty slot.")
SPEED = gauge(
    "steadytok_dmi_memory_transfers_per_second",
    "Speed that the memory module was set to at boot; two modules per channel, or a slower module, lower it.",
)
INFO = gauge(
    "steadytok_dmi_memory_info",
    "A slot as the firmware's table describes it, and the NUMA node of its addresses, where that is a single node.",
)
METRICS = (SIZE, SPEED, INFO)
HINT_ABSENT = "the firmware gives no tables: usual in a container and in some virtual machines"
HINT_REFUSED = (
    "only root may read the firmware's tables: run as the systemd service; without, DIMMs are named by sensor"
)
_INFO_FIELDS = ("manufacturer", "part_number", "serial_number", "type")


class _DmiState:
    """The node of each slot at the first reading of its addresses; no label changes while the agent runs."""

    def __init__(self) -> None:
        self.nodes: dict[Ranges, str] = {}


def collect(host: Host) -> Iterator[Reading]:
    """Reads the slots. The kernel copied the table at boot, so reading it accesses no hardware."""
    devices, state = read_memory_devices(host), host.get_state(_DmiState)
    if any(device.ranges not in state.nodes for device in devices):
        size, blocks = read_blocks_by_node(host)
        state.nodes = {ranges: _find_node(ranges, size, blocks) for ranges in {device.ranges for device in devices}}
    for device in devices:
        labels = _make_labels(device)
        info = {field: getattr(device, field) for field in _INFO_FIELDS}
        yield INFO.sample(1.0, **labels, **info, node=state.nodes[device.ranges])
        if device.size is not None:
            yield SIZE.sample(device.size, **labels)
        if device.size and device.speed:
            yield SPEED.sample(device.speed, **labels)


def _make_labels(device: MemoryDevice) -> dict[str, str]:
    # The handle, because some firmware gives all slots the same name.
    return {"handle": f"0x{device.handle:04X}", "locator": device.locator, "bank": device.bank}


def _find_node(ranges: Ranges, size: int, blocks: Mapping[str, frozenset[int]]) -> str:
    """Returns the node that holds the addresses, by the kernel's blocks of memory; empty unless it is a single node."""
    spans = [range(start // size, -(-end // size)) for start, end in ranges] if size else []
    matching = [node for node, numbers in blocks.items() if any(number in span for span in spans for number in numbers)]
    return matching[0] if len(matching) == 1 else ""
