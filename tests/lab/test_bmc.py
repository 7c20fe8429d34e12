"""`steadytok collect` and ipmitool agree about a BMC in-band, on the same /dev/ipmi0."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from tests.lab.conftest import StageReader

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]


def select_values(result: dict[str, Any], *names: str) -> dict[str, float]:
    """Returns the values of the metrics of ipmi with these names, by sensor."""
    metric_names = {f"steadytok_ipmi_{name}" for name in names}
    return {row["labels"]["sensor"]: row["value"] for row in result["samples"] if row["name"] in metric_names}


def test_without_the_driver_there_is_nothing(read_stage: StageReader) -> None:
    """Without /dev/ipmi0 the collector has no samples, no failure and no note."""
    result = read_stage("bmc")["without"]

    assert (result["status"], result["samples"], result["errors"]) == (0, [], "")


def test_the_bmc_is_read_in_band_as_ipmitool_reads_it(read_stage: StageReader) -> None:
    """32 DIMMs, the inlet and four fans have the same values."""
    result = read_stage("bmc")
    ours = select_values(result["cool"], "temperature_celsius", "fan_rpm")
    theirs = {
        name: float(value) for name, value, _, status in csv.reader(result["peer"].splitlines()) if status == "ok"
    }

    assert result["cool"]["errors"] == ""
    assert len(ours) == 32 + 1 + 4
    assert ours == {name: theirs[name] for name in ours}


def test_hwmon_and_dimm_are_read_beside_it(read_stage: StageReader) -> None:
    """One command reads the kernel's jc42 and the BMC, and neither hides the other."""
    names = {row["name"] for row in read_stage("bmc")["cool"]["samples"]}

    assert {"steadytok_hwmon_temperature_celsius", "steadytok_dimm_temperature_celsius"} <= names


def test_what_becomes_hot_is_seen_in_band(read_stage: StageReader) -> None:
    """A changed value on the BMC is in the next reading."""
    result = read_stage("bmc")

    assert select_values(result["cool"], "temperature_celsius")["DIMMA1 Temp"] == 42.0
    assert select_values(result["hot"], "temperature_celsius")["DIMMA1 Temp"] == 88.0
