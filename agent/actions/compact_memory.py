"""
compact_memory: makes free memory of a node contiguous, so that huge pages can be had, while its engine is idle.

Off for every engine that is not named: compaction delays allocations of the node while it runs.
https://docs.kernel.org/admin-guide/mm/concepts.html#compaction
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.actions import ActionContext, Plan, RefusedError, Task, _engine
from agent.actions._queries import NODE_PATH, require_value
from agent.text.units import format_bytes

TARGET = ("engine", "node")
NAMED = True
VERBS = ("compact",)
MIN_FREE_SHARE = 0.02  # of the node's memory: with less free there is nothing to compact


def describe(task: Task) -> str:
    """Describes the action for people."""
    node = f"node {task.target['node']}" if "node" in task.target else "the alert's node"
    return f"compacts the memory of {node} while engine {task.target['engine']} is idle"


def resource(task: Task) -> str:
    """Names the free memory of all nodes: one node is compacted at a time."""
    return "free memory"


def faults(task: Task) -> Iterable[str]:
    """Checks the target."""
    if fault := _engine.check_engine_target(task):
        yield fault
    if not task.target.get("node", "0").isdecimal():
        yield f"target.node: expected a number, found {task.target['node']!r}"


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses unless the engine is idle, and if next to nothing is free."""
    node = task.target.get("node", task.labels.get("node", ""))
    if not node.isdecimal():
        raise RefusedError("the alert has no label node; name one: target: {engine: …, node: NUMBER}")
    if not context.host.exists(f"{NODE_PATH}{node}/compact"):
        raise RefusedError(f"this kernel has no {NODE_PATH}{node}/compact: it is built without CONFIG_COMPACTION")
    _engine.refuse_unless_idle(task, context)
    free, total = _require_bytes(context, "mem_free", node), _require_bytes(context, "mem_total", node)
    if free < MIN_FREE_SHARE * total:
        raise RefusedError(f"node {node} has only {format_bytes(free)} free; there is nothing to compact")
    return Plan(None, {"node": int(node)}, f"{format_bytes(free)} of free memory of node {node} to be compacted")


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Checks again that the engine is idle, and has the hand compact the node."""
    _engine.refuse_unless_idle(task, context)
    return f"compacted in {float(context.hand('compact', **plan.wanted)['seconds']):.1f} s"


def _require_bytes(context: ActionContext, name: str, node: str) -> float:
    expr = f'sum(steadytok_node_meminfo_{name}_bytes{{node="{node}"}})'
    return require_value(context, expr, f"{name} of node {node}")
