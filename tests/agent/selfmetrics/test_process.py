"""The usage of the agent's processes, by role."""

from __future__ import annotations

import os

from agent.selfmetrics.process import Footprint


def test_a_living_process_is_told_and_a_dead_one_left_out() -> None:
    """A live process has memory and processor time; a role without a live process has no reading."""
    readings = Footprint().read_processes({"agent": os.getpid(), "eye": None, "canary": 2**22 + 1}, 0.0)
    values = {(sample.metric.name, dict(sample.labels)["process"]): sample.value for sample in readings if sample}

    assert set(values) == {
        ("steadytok_process_cpu_seconds_total", "agent"),
        ("steadytok_process_resident_bytes", "agent"),
    }
    assert values["steadytok_process_resident_bytes", "agent"] > 1 << 20


def test_it_is_asked_every_few_seconds() -> None:
    """Between two reads the same readings are returned again."""
    footprint = Footprint()
    first = footprint.read_processes({"agent": os.getpid()}, 100.0)

    assert footprint.read_processes({"agent": os.getpid()}, 104.9) is first
    assert footprint.read_processes({"agent": os.getpid()}, 105.0) is not first
