"""
reclaim: asks the kernel for so much memory of one node, or of one unit's cgroup, where it can be asked.

The finer tool beside drop_caches: the kernel takes the least recently used pages, clean page cache first. With swap it
may take anonymous memory too. Hence a size, never above the predicted unmapped page cache.
https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.reclaim), Documentation/ABI/stable/sysfs-devices-node
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import ActionContext, Plan, RefusedError, Task, _hand, _page_cache
from agent.actions._queries import NODE_PATH
from agent.text.units import format_bytes, parse_size

TARGET = ("node", "unit")
VERBS = ("reclaim",)
NEEDS = "Linux 5.19 for units; few kernels have it for nodes"
MIN_CACHE_SHARE = 0.01  # of the node's memory, or of the host's: with less, reading the files again costs more


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How much is reclaimed."""

    most: str = "4GiB"
    """The most bytes of one request."""


def describe(task: Task) -> str:
    """Describes the action for people."""
    return f"has the kernel give back up to {task.own.most} of {_describe_scope(task)}"


def resource(task: Task) -> str:
    """Names a part of the page cache: a node's or a unit's."""
    return f"page cache/{_describe_scope(task)}"


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if {"node", "unit"} <= set(task.target):
        yield "target: expected node: NUMBER, or unit: NAME.service, not both; neither is the alert's own node"
    if not task.target.get("node", "0").isdecimal():
        yield f"target.node: expected a number, found {task.target['node']!r}"
    try:
        if parse_size(task.own.most) < 1 << 20:
            yield "most: expected 1MiB or more"
    except ValueError as error:
        yield f"most: {error}"


def plan(task: Task, context: ActionContext) -> Plan:
    """Predicts unmapped clean bytes and asks for no more; refuses where the kernel cannot, and as drop_caches does."""
    arguments, cache = _find_unit(task, context) if "unit" in task.target else _find_node(task, context)
    if cache.free < MIN_CACHE_SHARE * cache.total:
        raise RefusedError(
            f"only {cache.summary} of {_describe_target(arguments)} is clean page cache that nobody has mapped"
        )
    _page_cache.refuse_while_busy(context)
    request_bytes = int(min(cache.free, parse_size(task.own.most)))
    summary = (
        f"{format_bytes(request_bytes)} of {format_bytes(cache.free)} of unmapped clean page cache of "
        f"{_describe_target(arguments)}"
    )
    return Plan(None, {**arguments, "bytes": request_bytes}, summary)


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Has the hand ask the kernel, which may give less."""
    result = context.hand("reclaim", **plan.wanted)
    shortfall = "" if result["whole"] else "; the kernel gave less"
    return f"asked for {format_bytes(float(result['asked_bytes']))} in {float(result['seconds']):.1f} s{shortfall}"


def _find_node(task: Task, context: ActionContext) -> tuple[dict[str, Any], _page_cache.PageCache]:
    number = task.target.get("node", task.labels.get("node", ""))
    if not number.isdecimal():
        raise RefusedError("the alert has no label node; name one: target: {node: NUMBER}")
    if not context.host.exists(f"{NODE_PATH}{number}/reclaim"):
        raise RefusedError(f"this kernel has no {NODE_PATH}{number}/reclaim; drop_caches gives back the whole host's")
    return {"node": int(number)}, _page_cache.read_node_cache(context, number)


def _find_unit(task: Task, context: ActionContext) -> tuple[dict[str, Any], _page_cache.PageCache]:
    name = task.target["unit"]
    cgroup = _hand.require_unit(context, name, "reclaim").get("cgroup", f"/system.slice/{name}")
    if not context.host.exists(f"sys/fs/cgroup{cgroup}/memory.reclaim"):
        raise RefusedError(f"there is no {cgroup}/memory.reclaim: the unit does not run, or Linux is older than 5.19")
    return {"unit": name}, _page_cache.read_cgroup_cache(context, f"sys/fs/cgroup{cgroup}/memory.stat")


def _describe_target(arguments: dict[str, Any]) -> str:
    return f"node {arguments['node']}" if "node" in arguments else str(arguments["unit"])


def _describe_scope(task: Task) -> str:
    if "unit" in task.target:
        return task.target["unit"]
    return f"node {task.target['node']}" if "node" in task.target else "the alert's node"
