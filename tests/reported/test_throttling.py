"""Throttling as kernels of public reports count it, and what is said about it."""

from __future__ import annotations

from pathlib import Path

from collectors import Host, thermal_throttle
from rules.unittests.runner import run_test_file

PICTURES = Path(__file__).parent / "pictures" / "throttling"


def test_counts_without_seconds_are_readings() -> None:
    """collectd/collectd#2397 shows the folder: before Linux 5.5 (f6656208f04e) it has no *_total_time_ms."""
    readings = [reading for reading in thermal_throttle.collect(Host(PICTURES / "root")) if reading is not None]

    assert {reading.metric.name for reading in readings} == {
        "steadytok_thermal_throttle_core_events_total",
        "steadytok_thermal_throttle_package_events_total",
    }


def test_counts_and_a_falling_frequency_are_throttling() -> None:
    """collectd/collectd#2397: 20 events a second at 1.2 in place of 3.2 GHz alert, at 3.2 GHz they do not."""
    assert run_test_file(PICTURES / "counts_alone.yml").failures == ()
