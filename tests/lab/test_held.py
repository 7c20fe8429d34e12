"""Actions have their effects on real memory, and end soon after their agent is killed."""

from __future__ import annotations

import re

import pytest

from agent.actions import freeze
from tests.lab.conftest import StageReader
from tests.lab.guest_held import SIZE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

PAGE = 4096


def test_the_action_really_moves_pages(read_stage: StageReader) -> None:
    """Most of the planned pages move, by numa_maps and numastat -p; the kernel may keep some."""
    result = read_stage("held")["actions"]
    before, after = result["pages"]

    assert re.fullmatch(r"80\.0 MiB of 80\.0 MiB from node 0 to 1, process \d+", result["migrate_pages"]["plan"])
    assert before["0"] * PAGE >= SIZE * 0.9
    assert (before["0"] - after["0"]) * PAGE >= SIZE * 0.5
    assert (after["1"] - before["1"]) * PAGE >= SIZE * 0.5
    private = [re.findall(r"^Private\s+(\S+)\s+(\S+)", text, re.MULTILINE)[0] for text in result["numastat"]]
    assert float(private[1][1]) - float(private[0][1]) >= 40


def test_the_action_really_reclaims_page_cache(read_stage: StageReader) -> None:
    """The named unit's cache is reclaimed through memory.reclaim; without reclaim per node the plan refuses."""
    result = read_stage("held")["actions"]["reclaim"]

    assert result["before"] > 24 << 20
    assert result["after"] < result["before"] / 2
    assert result["did"].startswith("asked for ")
    assert "this kernel has no sys/devices/system/node/node1/reclaim" in result["refused"]


def test_the_action_really_compacts(read_stage: StageReader) -> None:
    """The plan has the free memory, and the kernel accepts the request."""
    result = read_stage("held")["actions"]["compact_memory"]

    assert "of free memory of node 1 to be compacted" in result["plan"]
    assert result["did"].startswith("compacted in ")


def test_a_killed_agent_leaves_everything_at_full_speed_within_the_ttl(read_stage: StageReader) -> None:
    """After SIGKILL of the agent, a governor, a frozen unit and a paced engine are released within the ttl."""
    result = read_stage("held")["killed"]

    assert {lease["verb"] for lease in result["leases"]} == {"governor", "freeze"}
    assert sum(lease["verb"] == "governor" for lease in result["leases"]) > 1
    assert result["free_after"].keys() == {"governor", "freeze", "pace"}
    # Three seconds for the measurement in an emulated machine.
    assert max(result["free_after"].values()) <= freeze.TTL + 3, result["free_after"]
