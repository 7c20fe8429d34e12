"""
The stages in the virtual machine; each writes its results to /run/out/NAME.json.

Runs as root, `python -m tests.lab.guest`. The tests judge the results on the host; nothing is judged in the guest.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import (
    guest_agent,
    guest_bmc,
    guest_drift,
    guest_hand,
    guest_held,
    guest_limits,
    guest_memory,
    guest_numa,
    guest_placement,
    guest_sensors,
)

OUT = Path("/run/out")
Stage = Callable[[], dict[str, Any]]
STAGES: dict[str, Stage] = {
    "sensors_ready": guest_sensors.load,
    "nodes": guest_memory.nodes,
    "allocations": guest_memory.allocations,
    "spilled": guest_memory.spill_over,
    "numa_stat": guest_memory.numa_stat,
    "huge_pages": guest_memory.huge_pages,
    "dimms": guest_sensors.dimms,
    "modules": guest_sensors.modules,
    "cpufreq": guest_sensors.cpufreq,
    "engine_placed": guest_numa.place_engine,
    "engine_replicated": guest_numa.replicate_engine,
    "placements": guest_placement.placements,
    "refusals": guest_placement.refusals,
    "limits": guest_limits.limits,
    "requests": guest_limits.request_placement,
    "drift": guest_drift.drift,
    "hand": guest_hand.run,
    "held": guest_held.run,
    "agent": guest_agent.run,
    "bmc": guest_bmc.run,
}


def perform(name: str, stage: Stage) -> None:
    """Runs a stage. If it fails, its traceback replaces its results, and the next stages run."""
    began = time.monotonic()
    try:
        results = stage()
    except Exception:  # the tests of this stage show it
        results = {"error": traceback.format_exc()}
    results["took"] = round(time.monotonic() - began, 1)
    (OUT / f"{name}.json").write_text(json.dumps(results))
    sys.stdout.write(f"{name}: {results['took']} s{' FAILED' if 'error' in results else ''}\n")
    sys.stdout.flush()


def main(names: list[str]) -> None:
    """Runs all stages in order, or only the named ones."""
    (OUT / "started").touch()
    for name, stage in STAGES.items():
        if not names or name in names:
            perform(name, stage)
    (OUT / "done").touch()


if __name__ == "__main__":
    main(sys.argv[1:])
