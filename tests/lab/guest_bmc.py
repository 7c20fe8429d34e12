"""
Reads a BMC in-band: the kernel's /dev/ipmi0 in the guest, OpenIPMI's simulator on the host.

https://docs.kernel.org/driver-api/ipmi.html, https://www.qemu.org/docs/master/specs/ipmi.html
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.lab import observe

DEVICE = Path("/dev/ipmi0")
PATIENCE = 90.0  # seconds for the driver to find its BMC
# A sensor is set by its file, which the guest may write.
HOT = Path("/run/out/bmc/sensors/DIMMA1_Temp")


def run() -> dict[str, Any]:
    """Collects without the driver, with it, and after a DIMM has become hot; also reads the BMC with ipmitool."""
    results: dict[str, Any] = {"without": _collect("ipmi")}
    for module in ("ipmi_si", "ipmi_devintf"):
        observe.run("modprobe", "-d", os.environ["LAB_MODULES"], module)
    deadline = time.monotonic() + PATIENCE
    while not DEVICE.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    results["cool"] = _collect("ipmi", "hwmon", "dimm")
    results["peer"] = observe.run("ipmitool", "-c", "sdr", timeout=60).stdout
    HOT.write_text("88\n")
    time.sleep(2)  # until the simulator has read it
    results["hot"] = _collect("ipmi")
    HOT.write_text("42\n")
    return results


def _collect(*names: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "agent", "collect", "--json", *names]
    done = observe.run(*command, status=None, timeout=120)
    return {"status": done.returncode, "errors": done.stderr, "samples": json.loads(done.stdout)}
