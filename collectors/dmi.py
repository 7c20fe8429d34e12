"""
The memory modules as the firmware lists them: slot, size, speed, maker, part and serial number.

Reads sys/firmware/dmi/tables/DMI, which only root may. https://www.dmtf.org/standards/smbios
"""

from __future__ import annotations

from collections.abc import Iterator

from collectors import Host, Reading, gauge
from collectors._smbios import MemoryDevice, memory_devices

INTERVAL = 60.0
PRIVILEGED = True

SIZE = gauge("steadytok_dmi_memory_size_bytes", "Size of the memory module in a slot; 0 is an empty slot.")
SPEED = gauge(
    "steadytok_dmi_memory_transfers_per_second",
    "Speed that a memory module was set to at the boot: two modules per channel, or a slower one, lower it.",
)
METRICS = (SIZE, SPEED)


def collect(host: Host) -> Iterator[Reading]:
    """One pass over the slots. The kernel has copied the table at the boot, so that reading it asks no hardware."""
    for device in memory_devices(host):
        labels = _labels(device)
        if device.size is not None:
            yield SIZE.sample(device.size, **labels)
        if device.size and device.speed:
            yield SPEED.sample(device.speed, **labels)


def _labels(device: MemoryDevice) -> dict[str, str]:
    # The handle, because boards exist whose firmware gives all slots one name.
    return {"handle": f"0x{device.handle:04X}", "locator": device.locator, "bank": device.bank}
