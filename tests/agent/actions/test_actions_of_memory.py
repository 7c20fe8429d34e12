"""reclaim, migrate_pages and compact_memory: their predictions and their refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.actions import FailedError, Plan, QueryRows, RefusedError, Task
from tests.agent.actions.test_actions import ACTIONS, MEMORY, FakeContext, make_task

RECLAIM, MIGRATE, COMPACT = (ACTIONS[name] for name in ("reclaim", "migrate_pages", "compact_memory"))
NODE = {name.replace("steadytok_meminfo", "steadytok_node_meminfo"): value for name, value in MEMORY.items()}
QUIET = {"steadytok_meminfo_cached_bytes": 0.0, "workingset_refault_file": 0.0}
GIB = float(1 << 30)
PLACEMENT_VALUES = {
    "steadytok_process_memory_bytes": 100 * GIB,
    "steadytok_process_kind_share_ratio": 0.25,
    "steadytok_node_meminfo_mem_free_bytes": 80 * GIB,
    "steadytok_node_meminfo_mem_total_bytes": 256 * GIB,
    "steadytok_engine_requests_running": 0.0,
}


class Machine(FakeContext):
    """Two nodes, one engine's process, and a hand that moves the share of each request that a test sets."""

    def __init__(self, root: Path, values: Mapping[str, float], gains: tuple[float, ...] = ()) -> None:
        super().__init__(root, values)
        self.pids, self.gains, self.requests = ["4711"], list(gains), list[dict[str, Any]]()
        for node in (0, 1):
            for name in ("reclaim", "compact"):
                file = root / f"sys/devices/system/node/node{node}/{name}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()

    def query(self, expr: str) -> QueryRows:
        if "process_info" in expr:
            return [({"engine": "r1", "pid": pid, "starttime": "99"}, 1.0) for pid in self.pids]
        return super().query(expr)

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.requests.append(arguments)
        if verb == "migrate":
            moved = int(arguments["bytes"] * self.gains.pop(0))
            return {"moved_bytes": moved, "left_bytes": 1 << 30, "seconds": 2.0}
        if verb == "reclaim":
            return {"asked_bytes": arguments["bytes"], "seconds": 1.0, "whole": False}
        return super().hand(verb, **arguments)


def test_reclaim_asks_for_no_more_than_is_predicted(tmp_path: Path) -> None:
    """Without a target the alert's node counts; the result says that the kernel gave less."""
    reach = Machine(tmp_path, {**NODE, **QUIET})
    node_task = make_task("reclaim", {}, most="100GiB")
    node_task = Task(node_task.remedy, {}, node_task.own, {"alertname": "A", "node": "1"}, node_task.engines)
    plan = RECLAIM.plan(node_task, reach)

    assert plan.wanted == {"node": 1, "bytes": 44_000_000_000}
    assert plan.says == "41.0 GiB of 41.0 GiB of unmapped clean page cache of node 1"
    assert RECLAIM.do(node_task, plan, reach) == "asked for 41.0 GiB in 1.0 s; the kernel gave less"
    assert reach.requests == [plan.wanted]
    assert RECLAIM.plan(make_task("reclaim", most="1GiB"), reach).wanted == {"node": 1, "bytes": 1 << 30}


@pytest.mark.parametrize(
    ("target", "change", "words"),
    [
        ({}, {}, "the alert has no label node"),
        ({"node": "7"}, {}, "this kernel has no sys/devices/system/node/node7/reclaim"),
        ({"node": "1"}, {"steadytok_node_meminfo_mapped_bytes": 49e9}, "only 0 B .0.0 % of memory. of node 1"),
        ({"node": "1"}, {"steadytok_meminfo_cached_bytes": 6e7}, "files are being loaded"),
        ({"node": "1"}, {"workingset_refault_file": 1500.0}, "are read back already"),
        (
            {"unit": "b.service"},
            {},
            r'not allow reclaim for b.service; set reclaim = true under \[units."b.service"\]',
        ),
    ],
)
def test_reclaim_refuses(target: Mapping[str, str], change: Mapping[str, float], words: str, tmp_path: Path) -> None:
    """It refuses without kernel support or root's permission, and for the reasons of drop_caches."""
    with pytest.raises(RefusedError, match=words):
        RECLAIM.plan(make_task("reclaim", target), Machine(tmp_path, {**NODE, **QUIET, **change}))


def test_migrate_predicts_and_keeps_its_pace(tmp_path: Path) -> None:
    """A quarter of 100 GiB is on the wrong node: 2.5 GiB every ten seconds, with pauses, up to the bound of one act."""
    reach = Machine(tmp_path, PLACEMENT_VALUES, gains=(1.0,) * 9)
    plan = MIGRATE.plan(make_task("migrate_pages", most="30GiB"), reach)

    assert plan.says == "22.5 GiB of 25.0 GiB from node 0 to 1, process 4711"
    assert plan.wanted == {"pid": 4711, "start_time": 99, "bytes": 90 * (256 << 20)}
    assert MIGRATE.do(make_task("migrate_pages"), plan, reach) == "moved 22.5 GiB in 90 s; 1.0 GiB left"
    assert {request["bytes"] for request in reach.requests} == {2560 << 20}
    assert reach.requests[0]["start_time"] == 99
    assert reach.waits == [0.0] + [8.0] * 8


def test_migrate_stops_when_hardly_anything_moves(tmp_path: Path) -> None:
    """The rest is bound, shared or in use; moving nothing at all is a failure."""
    plan = Plan(None, {"pid": 4711, "start_time": 99, "bytes": 20 << 30}, "")
    reach = Machine(tmp_path, PLACEMENT_VALUES, gains=(1.0, 0.05, 1.0))

    assert MIGRATE.do(make_task("migrate_pages"), plan, reach).startswith("moved 2.6 GiB in ")
    assert len(reach.requests) == 2
    reach.gains = [0.0]
    with pytest.raises(FailedError, match=r"none of 20\.0 GiB moved: bound, shared or in use"):
        MIGRATE.do(make_task("migrate_pages"), plan, reach)


@pytest.mark.parametrize(
    ("change", "pids", "words"),
    [
        ({"steadytok_process_kind_share_ratio": 0.01}, ["4711"], "only 1.0 GiB of engine r1 is on node 0"),
        (
            {"steadytok_node_meminfo_mem_free_bytes": GIB},
            ["4711"],
            "node 1 has 1.0 GiB free, and 16.0 GiB would be moved",
        ),
        ({}, [], "engine r1 has no process"),
        ({}, ["4711", "4712"], "engine r1 has 2 processes; name one with target"),
    ],
)
def test_migrate_refuses(change: Mapping[str, float], pids: list[str], words: str, tmp_path: Path) -> None:
    """It refuses if it would gain nothing, if there is no room, and if the process is ambiguous."""
    reach = Machine(tmp_path, {**PLACEMENT_VALUES, **change})
    reach.pids = pids

    with pytest.raises(RefusedError, match=words):
        MIGRATE.plan(make_task("migrate_pages"), reach)


def test_migrate_is_for_nodes_that_there_are(tmp_path: Path) -> None:
    """A host of one node has nowhere to move to."""
    with pytest.raises(RefusedError, match="there is no node 3"):
        MIGRATE.plan(make_task("migrate_pages", to_node=3), Machine(tmp_path, PLACEMENT_VALUES))


def test_compact_waits_for_an_idle_engine(tmp_path: Path) -> None:
    """It checks at the plan and again before the act."""
    reach = Machine(tmp_path, PLACEMENT_VALUES)
    plan = COMPACT.plan(make_task("compact_memory"), reach)

    assert plan.says == "80.0 GiB of free memory of node 1 to be compacted"
    assert COMPACT.do(make_task("compact_memory"), plan, reach) == "compacted in 1.5 s"
    reach.values["steadytok_engine_requests_running"] = 2.0
    for step in (
        lambda: COMPACT.plan(make_task("compact_memory"), reach),
        lambda: COMPACT.do(make_task("compact_memory"), plan, reach),
    ):
        with pytest.raises(RefusedError, match="engine r1 is not idle: it had 2 requests within 30s"):
            step()


@pytest.mark.parametrize(
    ("target", "change", "words"),
    [
        ({"engine": "r1"}, {}, "the alert has no label node"),
        ({"engine": "r1", "node": "9"}, {}, "built without CONFIG_COMPACTION"),
        ({"engine": "r1", "node": "1"}, {"steadytok_node_meminfo_mem_free_bytes": GIB}, "only 1.0 GiB free"),
        (
            {"engine": "r1", "node": "1"},
            {"steadytok_engine_requests_running": None},
            "it is not known whether engine r1",
        ),
    ],
)
def test_compact_refuses(target: Mapping[str, str], change: dict[str, Any], words: str, tmp_path: Path) -> None:
    """It refuses without kernel support, without free memory, and if idleness is unknown."""
    values = {name: value for name, value in {**PLACEMENT_VALUES, **change}.items() if value is not None}

    with pytest.raises(RefusedError, match=words):
        COMPACT.plan(make_task("compact_memory", target), Machine(tmp_path, values))
