"""What the hand did to a real kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.guest_hand import SIZE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

Saw = Callable[[str], dict[str, Any]]
PAGE = 4096


def test_page_cache_is_really_dropped(read_stage: Saw) -> None:
    """Files had been read; most of their pages are gone, and the answer says about how many."""
    result = read_stage("hand")["drop_caches"]

    assert result["answer"]["ok"], result
    assert result["before"] - result["after"] > 24 << 20 < result["read"]
    assert result["answer"]["result"]["freed_bytes"] > 16 << 20


def test_a_node_is_compacted(read_stage: Saw) -> None:
    """The kernel takes the request."""
    assert read_stage("hand")["compact"]["ok"]


def test_a_governor_is_held_and_put_back_though_the_hand_was_killed(read_stage: Saw) -> None:
    """acpi-cpufreq has what was asked for, kill -9 changes nothing, the next hand knows the lease and ends it."""
    result = read_stage("hand")["governor"]

    assert result["answer"]["result"] == {"prior": result["prior"], "now": result["wanted"]}
    assert (result["held"], result["after_kill"]) == (result["wanted"], result["wanted"])
    assert [lease["prior"] for lease in result["leases"]] == [result["prior"]]
    assert result["renewed"]["result"] == {"renewed": ["g"], "unknown": [], "lapsed": {}}
    assert result["after"] == result["prior"]


def test_pages_are_really_moved(read_stage: Saw) -> None:
    """As much as was asked for, to a huge page; then the rest, at once or in a few goes; all that is told has moved."""
    result = read_stage("hand")["migrate"]
    first, second, last = result["pages"][0], result["pages"][1], result["pages"][-1]
    bounded, *rest = (answer["result"]["moved_bytes"] for answer in result["answers"])

    assert first["0"] * PAGE >= SIZE * 0.9
    assert 16 << 20 <= bounded < 18 << 20
    # Not less than was told; the kernel itself may bring more, as when it makes huge pages meanwhile.
    assert (second["1"] - first["1"]) * PAGE > bounded * 0.98
    assert (last["1"] - second["1"]) * PAGE > sum(rest) * 0.98
    assert last["0"] * PAGE < 1 << 20
    assert last["1"] * PAGE >= SIZE * 0.9


def test_pages_of_strangers_stay(read_stage: Saw) -> None:
    """Neither a process outside the named units is touched, nor one that has another's number."""
    result = read_stage("hand")

    assert "hand.toml does not name with migrate = true" in result["stranger"]["error"]
    assert "it started at another time" in result["another_time"]["error"]


def test_a_process_is_really_duty_cycled(read_stage: Saw) -> None:
    """At half duty it gets about half of what it had, and all of it after the lease."""
    result = read_stage("hand")["freeze"]

    assert result["answer"]["result"] == {"prior": 1.0, "now": 0.5}
    assert result["half"] / result["free"] == pytest.approx(0.5, abs=0.15)
    assert result["after"] / result["free"] > 0.8


def test_the_hand_ends_well(read_stage: Saw) -> None:
    """SIGTERM is status 0."""
    assert read_stage("hand")["status"] == 0
