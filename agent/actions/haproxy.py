"""
haproxy: lowers the weight of an engine's server in a HAProxy, or drains it, over the runtime socket.

The socket must be of `level admin` and open to the agent's user. HAProxy knows no lease: each renewal checks its value,
which a reload of HAProxy resets, and a child of the agent undoes it when the agent dies.
https://docs.haproxy.org/2.6/management.html#9.3 (set server, set weight, show servers state)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import ActionContext, ChangedError, FailedError, Moment, Plan, RefusedError, Task, read_only

TARGET = ("socket", "backend", "server")
REVERSIBLE = True
TTL = 30.0
LASTING = True
NEEDS = "runtime socket of `level admin`"
DRAIN_BIT = 0x08  # srv_admin_state: drained over the socket
MAINTENANCE_BITS = 0x01 | 0x02 | 0x04 | 0x20  # srv_admin_state: in maintenance, for whatever reason
MAX_WEIGHT = 256  # HAProxy's own bound of a weight
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ADDRESS = re.compile(r"/\S+|\S+:\d{1,5}")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Either a weight or a drain."""

    weight: int | None = None
    """HAProxy's weight: 0 takes no new connections."""
    drain: bool = False
    """Lets running requests end and takes no new ones."""


def describe(task: Task) -> str:
    """Describes the action for people."""
    return (
        f"drains {_server_name(task)}"
        if task.own.drain
        else f"sets the weight of {_server_name(task)} to {task.own.weight}"
    )


def resource(task: Task) -> str:
    """Names the server in its load balancer."""
    return f"haproxy {task.target['socket']} {_server_name(task)}"


def strength(task: Task) -> float:
    """Draining is stricter than any weight, and the lowest weight wins."""
    return -1.0 if task.own.drain else float(task.own.weight)


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if not _ADDRESS.fullmatch(task.target.get("socket", "")):
        yield f"target.socket: expected /PATH or HOST:PORT, found {task.target.get('socket', '')!r}"
    for key in ("backend", "server"):
        if not _NAME.fullmatch(task.target.get(key, "")):
            yield f"target.{key}: expected its name in haproxy.cfg, found {task.target.get(key, '')!r}"
    if (task.own.weight is None) != task.own.drain:
        yield "expected weight: NUMBER, or drain: true"
    elif task.own.weight is not None and not 0 <= task.own.weight <= MAX_WEIGHT:
        yield f"weight: expected 0 to {MAX_WEIGHT}"


def sandbox_addresses(task: Task) -> list[str]:
    """Returns the runtime socket at HOST:PORT; a path needs no network."""
    return [] if task.target["socket"].startswith("/") else [task.target["socket"]]


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses if nothing would change, or someone has taken the server out already."""
    state = _read_state(task, context)
    if state["admin"] & MAINTENANCE_BITS:
        raise RefusedError(f"{_server_name(task)} is in maintenance")
    prior = _parse_value(state)
    if prior["drain"]:
        raise RefusedError(f"{_server_name(task)} is being drained already, by another program")
    new_value = _target_value(task, prior)
    if task.own.weight is not None and prior["weight"] <= task.own.weight:
        raise RefusedError(f"{_server_name(task)} has a weight of {prior['weight']} already")
    change = "to be drained" if task.own.drain else f"weight {prior['weight']} -> {task.own.weight}"
    return Plan(prior, new_value, f"{_server_name(task)}: {change}")


def do(task: Task, plan: Plan, context: ActionContext) -> Any:
    """Writes the difference, unless someone else has changed the server meanwhile, and reads it back."""
    current = read_only(lambda: _require_own_value(task, plan, (plan.prior, plan.wanted, *plan.ours), context))
    return _apply_value(task, current, plan.wanted, context)


def undo(task: Task, plan: Plan, context: ActionContext) -> None:
    """Restores the prior value; a HAProxy restarted meanwhile has its configuration's value, which stays."""
    try:
        current = _require_own_value(task, plan, (plan.prior, *plan.ours), context)
    except RefusedError:  # the server has left its backend, together with the value
        return
    _apply_value(task, current, plan.prior, context)


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """Returns the value of this remedy, the strictest one."""
    return memory, _target_value(task, moment.held)


def _target_value(task: Task, current: dict[str, Any]) -> dict[str, Any]:
    return {**current, "drain": True} if task.own.drain else {"weight": task.own.weight, "drain": False}


def _require_own_value(task: Task, plan: Plan, accepted: tuple[Any, ...], context: ActionContext) -> dict[str, Any]:
    """Returns the current value if it is an accepted one, else raises ChangedError."""
    current = _parse_value(_read_state(task, context))
    if current not in accepted:
        raise ChangedError(f"{_server_name(task)} was set to {_format_value(current)} by someone else")
    return current


def _apply_value(
    task: Task, current: dict[str, Any], new_value: dict[str, Any], context: ActionContext
) -> dict[str, Any]:
    if current["weight"] != new_value["weight"]:
        _send_command(task, f"set server {_server_name(task)} weight {new_value['weight']}", context)
    if current["drain"] != new_value["drain"]:
        _send_command(
            task, f"set server {_server_name(task)} state {'drain' if new_value['drain'] else 'ready'}", context
        )
    result = _parse_value(_read_state(task, context))
    if result != new_value:
        raise FailedError(f"{_server_name(task)} was set to {_format_value(new_value)} and has {_format_value(result)}")
    return result


def _send_command(task: Task, command: str, context: ActionContext) -> None:
    """HAProxy answers only failures."""
    if answer := context.line(task.target["socket"], command).strip():
        raise FailedError(f"haproxy: {' '.join(answer.split())[:200]}")


def _read_state(task: Task, context: ActionContext) -> dict[str, int]:
    """Returns the server's current weight and the bits of its administrative state."""
    answer = context.line(task.target["socket"], f"show servers state {task.target['backend']}")
    lines = answer.strip().splitlines()
    names = next((line.lstrip("# ").split() for line in lines if line.startswith("#")), None)
    if names is None:
        raise FailedError(f"haproxy: {' '.join(answer.split())[:200] or 'no answer'}")
    rows = [dict(zip(names, line.split(), strict=False)) for line in lines if line[:1].isdigit() and " " in line]
    matching = [row for row in rows if row.get("srv_name") == task.target["server"]]
    if not matching:
        available = ", ".join(row.get("srv_name", "?") for row in rows) or "none"
        raise RefusedError(
            f"backend {task.target['backend']} has no server {task.target['server']}; there are: {available}"
        )
    return {"weight": int(matching[0]["srv_uweight"]), "admin": int(matching[0]["srv_admin_state"])}


def _parse_value(state: dict[str, int]) -> dict[str, Any]:
    return {"weight": state["weight"], "drain": bool(state["admin"] & DRAIN_BIT)}


def _format_value(value: dict[str, Any]) -> str:
    return f"weight {value['weight']}{', draining' if value['drain'] else ''}"


def _server_name(task: Task) -> str:
    return f"{task.target['backend']}/{task.target['server']}"
