"""
haproxy: sends an engine less, by the weight of its server in a HAProxy or by draining it, over the runtime socket.

The socket must be of `level admin` and open to the agent's user. HAProxy knows no lease: each renewal looks whether it
still has what was set, which a reload of HAProxy undoes, and a child of the agent's puts it back when the agent dies.
https://docs.haproxy.org/2.6/management.html#9.3 (set server, set weight, show servers state)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import ChangedError, FailedError, Moment, Plan, Reach, RefusedError, Task, _looking

TARGET = ("socket", "backend", "server")
REVERSIBLE = True
TTL = 30.0
LASTING = True
VERBS: tuple[str, ...] = ()
DRAIN = 0x08  # srv_admin_state: drain was asked for over the socket
MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20  # the same of maintenance, whatever it comes from
MOST = 256  # a weight, HAProxy's own bound
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ADDRESS = re.compile(r"/\S+|\S+:\d{1,5}")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two."""

    weight: int | None = None
    """As HAProxy has it: 0 takes no new connections."""
    drain: bool = False
    """Lets what runs end and takes nothing new."""


def describe(task: Task) -> str:
    """What it does, in words."""
    return f"drains {_name(task)}" if task.own.drain else f"sets the weight of {_name(task)} to {task.own.weight}"


def resource(task: Task) -> str:
    """The server, as one load balancer has it."""
    return f"haproxy {task.target['socket']} {_name(task)}"


def strength(task: Task) -> float:
    """Draining is stricter than any weight, and the lowest weight wins."""
    return -1.0 if task.own.drain else float(task.own.weight)


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if not _ADDRESS.fullmatch(task.target.get("socket", "")):
        yield f"target.socket: expected /PATH or HOST:PORT, found {task.target.get('socket', '')!r}"
    for key in ("backend", "server"):
        if not _NAME.fullmatch(task.target.get(key, "")):
            yield f"target.{key}: expected its name in haproxy.cfg, found {task.target.get(key, '')!r}"
    if (task.own.weight is None) != task.own.drain:
        yield "expected weight: NUMBER, or drain: true"
    elif task.own.weight is not None and not 0 <= task.own.weight <= MOST:
        yield f"weight: expected 0 to {MOST}"


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses where nothing would change, or somebody has taken the server out already."""
    state = _state(task, reach)
    if state["admin"] & MAINTENANCE:
        raise RefusedError(f"{_name(task)} is in maintenance")
    prior = _value(state)
    if prior["drain"]:
        raise RefusedError(f"{_name(task)} is being drained already, and not by us")
    wanted = _wanted(task, prior)
    if task.own.weight is not None and prior["weight"] <= task.own.weight:
        raise RefusedError(f"{_name(task)} has a weight of {prior['weight']} already")
    says = "to be drained" if task.own.drain else f"weight {prior['weight']} -> {task.own.weight}"
    return Plan(prior, wanted, f"{_name(task)}: {says}")


def do(task: Task, plan: Plan, reach: Reach) -> Any:
    """Writes what differs, unless somebody else has set it meanwhile, and reads it back."""
    now = _looking.first(lambda: _ours(task, plan, (plan.prior, plan.wanted, *plan.ours), reach))
    return _set(task, now, plan.wanted, reach)


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """As it was; a HAProxy that was restarted meanwhile has its own configuration's value, and is left alone."""
    try:
        now = _ours(task, plan, (plan.prior, *plan.ours), reach)
    except RefusedError:  # the server has left its backend, and what was set with it
        return
    _set(task, now, plan.prior, reach)


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """As the strictest remedy has it."""
    return memory, _wanted(task, moment.held)


def _wanted(task: Task, now: dict[str, Any]) -> dict[str, Any]:
    return {**now, "drain": True} if task.own.drain else {"weight": task.own.weight, "drain": False}


def _ours(task: Task, plan: Plan, known: tuple[Any, ...], reach: Reach) -> dict[str, Any]:
    """What is there now, where it is one of those known; ChangedError where it is not."""
    now = _value(_state(task, reach))
    if now not in known:
        raise ChangedError(f"{_name(task)} was set to {_said(now)} by someone else")
    return now


def _set(task: Task, now: dict[str, Any], wanted: dict[str, Any], reach: Reach) -> dict[str, Any]:
    if now["weight"] != wanted["weight"]:
        _tell(task, f"set server {_name(task)} weight {wanted['weight']}", reach)
    if now["drain"] != wanted["drain"]:
        _tell(task, f"set server {_name(task)} state {'drain' if wanted['drain'] else 'ready'}", reach)
    found = _value(_state(task, reach))
    if found != wanted:
        raise FailedError(f"{_name(task)} was told {_said(wanted)} and has {_said(found)}")
    return found


def _tell(task: Task, command: str, reach: Reach) -> None:
    """HAProxy says nothing where it did as it was told."""
    if answer := reach.line(task.target["socket"], command).strip():
        raise FailedError(f"haproxy: {' '.join(answer.split())[:200]}")


def _state(task: Task, reach: Reach) -> dict[str, int]:
    """The server's line: its weight now, and the bits of its administrative state."""
    answer = reach.line(task.target["socket"], f"show servers state {task.target['backend']}")
    lines = answer.strip().splitlines()
    names = next((line.lstrip("# ").split() for line in lines if line.startswith("#")), None)
    if names is None:
        raise FailedError(f"haproxy: {' '.join(answer.split())[:200] or 'no answer'}")
    rows = [dict(zip(names, line.split(), strict=False)) for line in lines if line[:1].isdigit() and " " in line]
    mine = [row for row in rows if row.get("srv_name") == task.target["server"]]
    if not mine:
        there = ", ".join(row.get("srv_name", "?") for row in rows) or "none"
        raise RefusedError(
            f"backend {task.target['backend']} has no server {task.target['server']}; there are: {there}"
        )
    return {"weight": int(mine[0]["srv_uweight"]), "admin": int(mine[0]["srv_admin_state"])}


def _value(state: dict[str, int]) -> dict[str, Any]:
    return {"weight": state["weight"], "drain": bool(state["admin"] & DRAIN)}


def _said(value: dict[str, Any]) -> str:
    return f"weight {value['weight']}{', draining' if value['drain'] else ''}"


def _name(task: Task) -> str:
    return f"{task.target['backend']}/{task.target['server']}"
