"""
reclaim: asks the kernel for so much memory of one node, or of one unit's cgroup, where it can be asked.

The finer tool beside drop_caches: the kernel takes what was used longest ago, clean page cache first. With swap it may
take anonymous memory too, hence a size, and never more than the unmapped page cache that is predicted.
https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.reclaim), Documentation/ABI/stable/sysfs-devices-node
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import Moment, Plan, Reach, RefusedError, Task, _hand, _page_cache
from agent.text.units import bytes_written, size

TARGET = ("node", "unit")
REVERSIBLE = False
TTL = None
VERBS = ("reclaim",)
NODE = "sys/devices/system/node/node"
LEAST = 0.01  # of the node's memory, or of the host's: below this it is not worth reading files again


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How much."""

    most: str = "4GiB"
    """What is asked for at most."""


def describe(task: Task) -> str:
    """What it does, in words."""
    return f"has the kernel give back up to {task.own.most} of {_whose(task)}"


def resource(task: Task) -> str:
    """The page cache, of which a node's and a unit's are parts."""
    return f"page cache/{_whose(task)}"


def strength(task: Task) -> float:
    """It holds nothing."""
    return 0.0


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if {"node", "unit"} <= set(task.target):
        yield "target: expected node: NUMBER, or unit: NAME.service, not both; neither is the alert's own node"
    if not task.target.get("node", "0").isdecimal():
        yield f"target.node: expected a number, found {task.target['node']!r}"
    try:
        if size(task.own.most) < 1 << 20:
            yield "most: expected 1MiB or more"
    except ValueError as error:
        yield f"most: {error}"


def plan(task: Task, reach: Reach) -> Plan:
    """Predicts unmapped clean bytes and asks for no more; refuses where the kernel cannot, and as drop_caches does."""
    what, cache = _unit(task, reach) if "unit" in task.target else _node(task, reach)
    if cache.free < LEAST * cache.total:
        raise RefusedError(f"only {cache.words} of {_named(what)} is clean page cache that nobody has mapped")
    _page_cache.refuse_while_wanted(reach)
    wanted = int(min(cache.free, size(task.own.most)))
    says = f"{bytes_written(wanted)} of {bytes_written(cache.free)} of unmapped clean page cache of {_named(what)}"
    return Plan(None, {**what, "bytes": wanted}, says)


def do(task: Task, plan: Plan, reach: Reach) -> str:
    """Has the hand ask; the kernel may give less."""
    told = reach.hand("reclaim", **plan.wanted)
    given = "" if told["whole"] else "; the kernel gave less"
    return f"asked for {bytes_written(float(told['asked_bytes']))} in {float(told['seconds']):.1f} s{given}"


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """What was given back is given back."""


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """It holds nothing."""
    return memory, moment.held


def _node(task: Task, reach: Reach) -> tuple[dict[str, Any], _page_cache.Cache]:
    number = task.target.get("node", task.labels.get("node", ""))
    if not number.isdecimal():
        raise RefusedError("the alert has no label node; name one: target: {node: NUMBER}")
    if not reach.host.exists(f"{NODE}{number}/reclaim"):
        raise RefusedError(f"this kernel has no {NODE}{number}/reclaim; drop_caches gives back the whole host's")
    return {"node": int(number)}, _page_cache.of_node(reach, number)


def _unit(task: Task, reach: Reach) -> tuple[dict[str, Any], _page_cache.Cache]:
    name = task.target["unit"]
    cgroup = _hand.unit(reach, name, "reclaim").get("cgroup", f"/system.slice/{name}")
    if not reach.host.exists(f"sys/fs/cgroup{cgroup}/memory.reclaim"):
        raise RefusedError(f"there is no {cgroup}/memory.reclaim: the unit does not run, or Linux is older than 5.19")
    return {"unit": name}, _page_cache.of_cgroup(reach, f"sys/fs/cgroup{cgroup}/memory.stat")


def _named(what: dict[str, Any]) -> str:
    return f"node {what['node']}" if "node" in what else str(what["unit"])


def _whose(task: Task) -> str:
    if "unit" in task.target:
        return task.target["unit"]
    return f"node {task.target['node']}" if "node" in task.target else "the alert's node"
