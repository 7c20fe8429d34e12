"""
compact_memory: makes free memory of a node contiguous, so that huge pages can be had, while its engine is idle.

Off for every engine that is not named: compaction holds allocations of the node up while it runs.
https://docs.kernel.org/admin-guide/mm/concepts.html#compaction
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import Moment, Plan, Reach, RefusedError, Task, _engine
from agent.text.units import bytes_written

TARGET = ("engine", "node")
REVERSIBLE = False
TTL = None
NAMED = True
VERBS = ("compact",)
NODE = "sys/devices/system/node/node"
LEAST = 0.02  # of the node's memory: with less free there is nothing to put together


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """It has no parameters."""


def describe(task: Task) -> str:
    """What it does, in words."""
    node = f"node {task.target['node']}" if "node" in task.target else "the alert's node"
    return f"compacts the memory of {node} while engine {task.target['engine']} is idle"


def resource(task: Task) -> str:
    """The free memory of the host's nodes: one is compacted at a time."""
    return "free memory"


def strength(task: Task) -> float:
    """It holds nothing."""
    return 0.0


def faults(task: Task) -> Iterable[str]:
    """What is wrong with the target."""
    if fault := _engine.fault(task):
        yield fault
    if not task.target.get("node", "0").isdecimal():
        yield f"target.node: expected a number, found {task.target['node']!r}"


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses unless the engine is idle, and where next to nothing is free to be put together."""
    node = task.target.get("node", task.labels.get("node", ""))
    if not node.isdecimal():
        raise RefusedError("the alert has no label node; name one: target: {engine: …, node: NUMBER}")
    if not reach.host.exists(f"{NODE}{node}/compact"):
        raise RefusedError(f"this kernel has no {NODE}{node}/compact: it is built without CONFIG_COMPACTION")
    _engine.refuse_unless_idle(task, reach)
    free, total = _bytes(reach, "mem_free", node), _bytes(reach, "mem_total", node)
    if free < LEAST * total:
        raise RefusedError(f"node {node} has only {bytes_written(free)} free; there is nothing to put together")
    return Plan(None, {"node": int(node)}, f"{bytes_written(free)} of free memory of node {node} to be put together")


def do(task: Task, plan: Plan, reach: Reach) -> str:
    """Looks once more whether the engine is idle, and has the hand compact the node."""
    _engine.refuse_unless_idle(task, reach)
    return f"compacted in {float(reach.hand('compact', **plan.wanted)['seconds']):.1f} s"


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """Pages that have been put together stay so until they are used."""


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """It holds nothing."""
    return memory, moment.held


def _bytes(reach: Reach, name: str, node: str) -> float:
    found = reach.query(f'sum(steadytok_node_meminfo_{name}_bytes{{node="{node}"}})')
    if not found:
        raise RefusedError(f"{name} of node {node} is not known")
    return found[0][1]
