"""The hand's verbs have their effects on a real kernel, and its leases end."""

from __future__ import annotations

import pytest

from tests.lab.conftest import StageReader
from tests.lab.guest_hand import SIZE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

PAGE = 4096


def test_page_cache_is_really_dropped(read_stage: StageReader) -> None:
    """Most of the cached pages are dropped, and the answer has about their number."""
    result = read_stage("hand")["drop_caches"]

    assert result["answer"]["ok"], result
    assert result["before"] - result["after"] > 24 << 20 < result["read"]
    assert result["answer"]["result"]["freed_bytes"] > 16 << 20


def test_a_node_is_compacted(read_stage: StageReader) -> None:
    """The kernel accepts the request."""
    assert read_stage("hand")["compact"]["ok"]


def test_a_governor_is_held_and_put_back_though_the_hand_was_killed(read_stage: StageReader) -> None:
    """acpi-cpufreq has the requested governor, also after kill -9; the next hand reads the lease and ends it."""
    result = read_stage("hand")["governor"]

    assert result["answer"]["result"] == {"prior": result["prior"], "now": result["wanted"]}
    assert (result["held"], result["after_kill"]) == (result["wanted"], result["wanted"])
    assert [lease["prior"] for lease in result["leases"]] == [result["prior"]]
    assert result["renewed"]["result"] == {"renewed": ["g"], "unknown": [], "lapsed": {}}
    assert result["after"] == result["prior"]


def test_pages_are_really_moved(read_stage: StageReader) -> None:
    """The first move is as large as requested, within a huge page; a few more move the rest, as the answers say."""
    result = read_stage("hand")["migrate"]
    first, second, last = result["pages"][0], result["pages"][1], result["pages"][-1]
    bounded, *rest = (answer["result"]["moved_bytes"] for answer in result["answers"])

    assert first["0"] * PAGE >= SIZE * 0.9
    assert 16 << 20 <= bounded < 18 << 20
    # At least the reported pages; the kernel may move more itself, such as when it makes huge pages.
    assert (second["1"] - first["1"]) * PAGE > bounded * 0.98
    assert (last["1"] - second["1"]) * PAGE > sum(rest) * 0.98
    assert last["0"] * PAGE < 1 << 20
    assert last["1"] * PAGE >= SIZE * 0.9


def test_pages_of_strangers_stay(read_stage: StageReader) -> None:
    """A process outside the named units is refused, and so is a reused pid."""
    result = read_stage("hand")

    assert "hand.toml does not name with migrate = true" in result["stranger"]["error"]
    assert "it started at another time" in result["another_time"]["error"]


def test_a_process_is_really_duty_cycled(read_stage: StageReader) -> None:
    """At half duty the process has about half its CPU share, and all of it after the lease."""
    result = read_stage("hand")["freeze"]

    assert result["answer"]["result"] == {"prior": 1.0, "now": 0.5}
    assert result["half"] / result["free"] == pytest.approx(0.5, abs=0.15)
    assert result["after"] / result["free"] > 0.8


def test_the_hand_ends_well(read_stage: StageReader) -> None:
    """The hand ends with status 0 after SIGTERM."""
    assert read_stage("hand")["status"] == 0
