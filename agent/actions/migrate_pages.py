"""
migrate_pages: moves an engine's anonymous pages from one node to another, slowly, as long as that gains something.

Off for every engine that is not named, and never undone. The hand leaves out pages that the process has bound or
interleaved itself, since their owner had a reason. Page cache (weights that are mapped from a file) stays in place.
https://www.kernel.org/doc/html/latest/mm/page_migration.html, move_pages(2)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from agent.actions import ActionContext, FailedError, Plan, RefusedError, Task, _engine
from agent.actions._queries import NODE_PATH, require_value
from agent.text.units import format_bytes, parse_size

TARGET = ("engine", "rank")
NAMED = True
VERBS = ("migrate",)
NEEDS = "`migrate = true`"
# Seconds for one request: each walks all page tables of the process once, so a few large ones
SECONDS_PER_REQUEST = 10.0
MAX_SECONDS = 90.0  # seconds for one act; the rest is left to another act
STALL_SHARE = 0.1  # of the requested bytes: with fewer moved, going on costs more than it gains
MIN_SHARE = 0.02  # of the process's anonymous memory: less makes no visible difference
MIN_BYTES = 64 << 20  # bytes: the same


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Which pages are moved, how fast and how many."""

    from_node: int
    """The node that the pages leave."""
    to_node: int
    """The node that the pages move to."""
    per_second: str = "256MiB"
    """Bounds the share of the nodes' bandwidth that moving takes."""
    most: str = "16GiB"
    """The most bytes of one act."""


def describe(task: Task) -> str:
    """Describes the action for people."""
    config = task.own
    return (
        f"moves pages of engine {_describe_engine(task)} from node {config.from_node} to {config.to_node}, "
        f"{config.per_second} a second"
    )


def resource(task: Task) -> str:
    """Names the engine's pages, in either direction."""
    return f"pages of engine {_describe_engine(task)}"


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if fault := _engine.check_engine_target(task):
        yield fault
    if task.own.from_node == task.own.to_node or min(task.own.from_node, task.own.to_node) < 0:
        yield f"expected two nodes, found from_node: {task.own.from_node} and to_node: {task.own.to_node}"
    for key, minimum in (("per_second", "1MiB"), ("most", "1MiB")):
        try:
            if parse_size(getattr(task.own, key)) < parse_size(minimum):
                yield f"{key}: expected {minimum} or more"
        except ValueError as error:
            yield f"{key}: {error}"


def plan(task: Task, context: ActionContext) -> Plan:
    """Predicts the misplaced bytes; refuses if they are few, or the other node has no room for them."""
    config = task.own
    for node in (config.from_node, config.to_node):
        if not context.host.exists(f"{NODE_PATH}{node}"):
            raise RefusedError(f"there is no node {node} on this host")
    pid, start_time = _find_process(task, context)
    misplaced, total = _query_anonymous_bytes(task, context)
    if misplaced < max(MIN_BYTES, MIN_SHARE * total):
        raise RefusedError(
            f"only {format_bytes(misplaced)} of engine {_describe_engine(task)} is on node {config.from_node}"
        )
    move_bytes = int(min(misplaced, parse_size(config.most), MAX_SECONDS * parse_size(config.per_second)))
    free = require_value(
        context, f'sum(steadytok_node_meminfo_mem_free_bytes{{node="{config.to_node}"}})', "the free memory of the node"
    )
    if free < move_bytes:
        raise RefusedError(
            f"node {config.to_node} has {format_bytes(free)} free, and {format_bytes(move_bytes)} would be moved there"
        )
    summary = (
        f"{format_bytes(move_bytes)} of {format_bytes(misplaced)} from node {config.from_node} to "
        f"{config.to_node}, process {pid}"
    )
    return Plan(None, {"pid": pid, "start_time": start_time, "bytes": move_bytes}, summary)


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Moves batch after batch at the allowed speed, until all has moved or hardly anything does."""
    config, moved, spent, pause = task.own, 0, 0.0, 0.0
    arguments = {
        "pid": plan.wanted["pid"],
        "start_time": plan.wanted["start_time"],
        "from": config.from_node,
        "to": config.to_node,
    }
    for batch in _split_batches(plan.wanted["bytes"], int(SECONDS_PER_REQUEST * parse_size(config.per_second))):
        context.wait(pause)
        result = context.hand("migrate", **arguments, bytes=batch)
        batch_moved, seconds = int(result["moved_bytes"]), float(result["seconds"])
        moved, due = moved + batch_moved, batch_moved / parse_size(config.per_second)
        spent, pause = spent + max(due, seconds), max(0.0, due - seconds)
        if batch_moved < STALL_SHARE * batch or spent >= MAX_SECONDS:
            break
    if not moved:
        raise FailedError(f"none of {format_bytes(float(plan.wanted['bytes']))} moved: bound, shared or in use")
    return f"moved {format_bytes(moved)} in {spent:.0f} s; {format_bytes(float(result['left_bytes']))} left"


def _split_batches(total: int, batch_size: int) -> Iterator[int]:
    for start in range(0, total, batch_size):
        yield max(1 << 12, min(batch_size, total - start))


def _find_process(task: Task, context: ActionContext) -> tuple[int, int]:
    """Returns the pid and start time (clock ticks) of the engine's process: together they identify it."""
    # Not from /proc, where the daemon's unit sees no process of others (ProtectProc=invisible).
    rows = [labels for labels, _ in context.query(f"steadytok_process_info{_process_selector(task)}")]
    processes = {
        (int(labels["pid"]), int(labels["starttime"])) for labels in rows if {"pid", "starttime"} <= set(labels)
    }
    if len(processes) != 1:
        count = f"{len(processes)} processes; name one with target: {{rank: …}}" if processes else "no process"
        raise RefusedError(f"engine {_describe_engine(task)} has {count}, according to the process collector")
    return processes.pop()


def _query_anonymous_bytes(task: Task, context: ActionContext) -> tuple[float, float]:
    """Returns the anonymous bytes on the node that they are to leave, and on all nodes."""
    selector = _process_selector(task)[:-1]
    total = require_value(
        context, f'sum(steadytok_process_memory_bytes{selector}, kind="anon"}})', "its anonymous memory"
    )
    share_expr = f'sum(steadytok_process_kind_share_ratio{selector}, kind="anon", node="{task.own.from_node}"}})'
    return total * require_value(context, share_expr, "its share of each node"), total


def _process_selector(task: Task) -> str:
    rank = f', rank="{task.target["rank"]}"' if "rank" in task.target else ""
    return f'{{engine="{task.target["engine"]}"{rank}}}'


def _describe_engine(task: Task) -> str:
    return task.target["engine"] + (f" rank {task.target['rank']}" if "rank" in task.target else "")
