"""
The memory modules as the firmware lists them: slot, size, speed, maker, part and serial number.

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
    "Speed that a memory module was set to at the boot: two modules per channel, or a slower one, lower it.",
)
INFO = gauge(
    "steadytok_dmi_memory_info",
    "What the firmware's table says of a slot, and the NUMA node whose memory its addresses are, where it is one.",
)
METRICS = (SIZE, SPEED, INFO)
HINT_ABSENT = "the firmware gives no tables: usual in a container and in some virtual machines"
HINT_REFUSED = (
    "only root may read the firmware's tables: run as the systemd service; without, DIMMs are named by sensor"
)
_INFO_FIELDS = ("manufacturer", "part_number", "serial_number", "type")


class _DmiState:
    """The node of each slot, as it was when its addresses were first seen: no label changes in a run."""

    def __init__(self) -> None:
        self.nodes: dict[Ranges, str] = {}


def collect(host: Host) -> Iterator[Reading]:
    """One pass over the slots. The kernel has copied the table at the boot, so that reading it asks no hardware."""
    devices, state = read_memory_devices(host), host.kept(_DmiState)
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
    # The handle, because boards exist whose firmware gives all slots one name.
    return {"handle": f"0x{device.handle:04X}", "locator": device.locator, "bank": device.bank}


def _find_node(ranges: Ranges, size: int, blocks: Mapping[str, frozenset[int]]) -> str:
    """The node that addresses are of, as the kernel's blocks of memory are; empty unless it is one."""
    spans = [range(start // size, -(-end // size)) for start, end in ranges] if size else []
    matching = [node for node, numbers in blocks.items() if any(number in span for span in spans for number in numbers)]
    return matching[0] if len(matching) == 1 else ""
