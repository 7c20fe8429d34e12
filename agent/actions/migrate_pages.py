"""
migrate_pages: moves an engine's anonymous pages from one node to another, slowly, as long as that gains something.

Off for every engine that is not named, and not to be put back. Pages that the process has bound or interleaved itself
are not moved: the hand leaves them out, since their owner had a reason. Page cache (weights that are mapped from a
file) stays where it is. https://www.kernel.org/doc/html/latest/mm/page_migration.html, move_pages(2)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from agent.actions import FailedError, Moment, Plan, Reach, RefusedError, Task, _engine
from agent.text.units import bytes_written, size

TARGET = ("engine", "rank")
REVERSIBLE = False
TTL = None
NAMED = True
VERBS = ("migrate",)
EVERY = 10.0  # seconds for one request: each walks all page tables of the process once, so a few large ones
LONGEST = 90.0  # seconds for one act; what is left is another act's
STALLED = 0.1  # of what was asked: less than this has moved, and the rest costs more than it gains
LEAST = 0.02  # of the process's anonymous memory: below this nobody will see the difference
WORTH = 64 << 20  # bytes: the same
NODES = "sys/devices/system/node/node"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Which pages are moved, how fast and how many."""

    from_node: int
    """The node where they are."""
    to_node: int
    """The node where they should be."""
    per_second: str = "256MiB"
    """Bounds what moving takes of the nodes' bandwidth."""
    most: str = "16GiB"
    """For one act."""


def describe(task: Task) -> str:
    """What it does, in words."""
    own = task.own
    return f"moves pages of engine {_name(task)} from node {own.from_node} to {own.to_node}, {own.per_second} a second"


def resource(task: Task) -> str:
    """The engine's pages, whichever way they go."""
    return f"pages of engine {_name(task)}"


def strength(task: Task) -> float:
    """It holds nothing."""
    return 0.0


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if fault := _engine.fault(task):
        yield fault
    if task.own.from_node == task.own.to_node or min(task.own.from_node, task.own.to_node) < 0:
        yield f"expected two nodes, found from_node: {task.own.from_node} and to_node: {task.own.to_node}"
    for key, least in (("per_second", "1MiB"), ("most", "1MiB")):
        try:
            if size(getattr(task.own, key)) < size(least):
                yield f"{key}: expected {least} or more"
        except ValueError as error:
            yield f"{key}: {error}"


def plan(task: Task, reach: Reach) -> Plan:
    """Predicts what lies on the wrong node; refuses where it is little, or the other has no room for it."""
    own = task.own
    for node in (own.from_node, own.to_node):
        if not reach.host.exists(f"{NODES}{node}"):
            raise RefusedError(f"there is no node {node} on this host")
    pid, started = _process(task, reach)
    there, whole = _anonymous(task, reach)
    if there < max(WORTH, LEAST * whole):
        raise RefusedError(f"only {bytes_written(there)} of engine {_name(task)} is on node {own.from_node}")
    wanted = int(min(there, size(own.most), LONGEST * size(own.per_second)))
    room = _one(reach, f'sum(steadytok_node_meminfo_mem_free_bytes{{node="{own.to_node}"}})', "what the node has free")
    if room < wanted:
        raise RefusedError(f"node {own.to_node} has {bytes_written(room)} free, and {bytes_written(wanted)} would come")
    says = (
        f"{bytes_written(wanted)} of {bytes_written(there)} from node {own.from_node} to {own.to_node}, process {pid}"
    )
    return Plan(None, {"pid": pid, "start_time": started, "bytes": wanted}, says)


def do(task: Task, plan: Plan, reach: Reach) -> str:
    """One piece after another, each no faster than allowed, until all has moved or hardly anything does."""
    own, moved, spent, pause = task.own, 0, 0.0, 0.0
    which = {
        "pid": plan.wanted["pid"],
        "start_time": plan.wanted["start_time"],
        "from": own.from_node,
        "to": own.to_node,
    }
    for piece in _pieces(plan.wanted["bytes"], int(EVERY * size(own.per_second))):
        reach.wait(pause)
        told = reach.hand("migrate", **which, bytes=piece)
        now, seconds = int(told["moved_bytes"]), float(told["seconds"])
        moved, due = moved + now, now / size(own.per_second)
        spent, pause = spent + max(due, seconds), max(0.0, due - seconds)
        if now < STALLED * piece or spent >= LONGEST:
            break
    if not moved:
        raise FailedError(f"none of {bytes_written(float(plan.wanted['bytes']))} moved: bound, shared or in use")
    return f"moved {bytes_written(moved)} in {spent:.0f} s; {bytes_written(float(told['left_bytes']))} left"


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """What was moved stays: to move it back costs as much again."""


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """It holds nothing."""
    return memory, moment.held


def _pieces(whole: int, most: int) -> Iterator[int]:
    for start in range(0, whole, most):
        yield max(1 << 12, min(most, whole - start))


def _process(task: Task, reach: Reach) -> tuple[int, int]:
    """The pid of the engine's process and its start in clock ticks: with both, who it is."""
    # Not from /proc, where the daemon's unit sees no process of others (ProtectProc=invisible).
    found = [labels for labels, _ in reach.query(f"steadytok_process_info{_who(task)}")]
    told = {(int(labels["pid"]), int(labels["starttime"])) for labels in found if {"pid", "starttime"} <= set(labels)}
    if len(told) != 1:
        many = f"{len(told)} processes; name one with target: {{rank: …}}" if told else "no process"
        raise RefusedError(f"engine {_name(task)} has {many}, as far as the process collector sees")
    return told.pop()


def _anonymous(task: Task, reach: Reach) -> tuple[float, float]:
    """Anonymous bytes on the node that they are to leave, and all."""
    who = _who(task)[:-1]
    whole = _one(reach, f'sum(steadytok_process_memory_bytes{who}, kind="anon"}})', "its anonymous memory")
    share = f'sum(steadytok_process_kind_share_ratio{who}, kind="anon", node="{task.own.from_node}"}})'
    return whole * _one(reach, share, "on which node it lies"), whole


def _who(task: Task) -> str:
    rank = f', rank="{task.target["rank"]}"' if "rank" in task.target else ""
    return f'{{engine="{task.target["engine"]}"{rank}}}'


def _one(reach: Reach, expr: str, what: str) -> float:
    found = reach.query(expr)
    if not found:
        raise RefusedError(f"{what} is not known")
    return found[0][1]


def _name(task: Task) -> str:
    return task.target["engine"] + (f" rank {task.target['rank']}" if "rank" in task.target else "")
