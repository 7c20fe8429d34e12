"""
freeze: holds back an engine that cannot pace, by standing its unit still for a share of each second.

By the freezer of its cgroup, in the hand, as a lease: nobody renews it, and the unit runs freely again. Off for every
engine that is not named. Whatever probes the engine (Kubernetes' livenessProbe, WatchdogSec=, a load balancer) waits
meanwhile: hand.toml says for each unit how long it may stand still at a time (`longest_stop`), and no more is asked.
https://docs.kernel.org/admin-guide/cgroup-v2.html (cgroup.freeze)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import Moment, Plan, Reach, RefusedError, Task, _engine, _hand

TARGET = ("engine", "unit")
REVERSIBLE = True
TTL = 30.0
NAMED = True
VERBS = ("freeze",)
FULL = 1.0
SAFE = 0.5  # the duty that it falls to where the alert's evidence is lost
RAMP = 0.02  # how far at each tick
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.(?:service|scope|slice)")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How long the unit stands still, and how often."""

    duty: float = 0.7
    """Share of each period that the unit may run."""
    period: float = 1.0
    """Seconds; a shorter one is the same duty in shorter stops."""


def describe(task: Task) -> str:
    """What it does, in words."""
    return f"lets {task.target['unit']} run for {task.own.duty:.0%} of each {task.own.period:g} s"


def resource(task: Task) -> str:
    """The unit."""
    return f"freezer of {task.target['unit']}"


def strength(task: Task) -> float:
    """The lowest duty wins."""
    return float(task.own.duty)


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if fault := _engine.fault(task):
        yield fault
    if not _UNIT.fullmatch(task.target.get("unit", "")):
        yield f"target.unit: expected a unit such as llama.service, found {task.target.get('unit', '')!r}"
    if not 0.1 <= task.own.duty < 1:
        yield "duty: expected 0.1 or more, and less than 1"
    if not 0.05 <= task.own.period <= 10:
        yield "period: expected 0.05 to 10 (seconds)"


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses where a liveness probe could take the engine for dead, or it is held back already."""
    unit, own = task.target["unit"], task.own
    told = _hand.unit(reach, unit, "freeze")
    longest, still = told.get("longest_stop"), (1 - own.duty) * own.period
    if longest is not None and still > longest:
        raise RefusedError(
            f"{unit} would stand still for {still:.2f} s at a time, and longest_stop in hand.toml is {longest:g} s: a "
            "liveness probe might kill it; use a shorter period, or raise longest_stop to what its probes bear"
        )
    if (
        reach.host.read(f"sys/fs/cgroup{told.get('cgroup', f'/system.slice/{unit}')}/cgroup.freeze", optional=True)
        == "1"
    ):
        raise RefusedError(f"{unit} is frozen already, and not by us")
    _engine.refuse_while_paced(task, reach)
    return Plan(
        FULL, own.duty, f"{unit} runs for {own.duty:.0%} of each {own.period:g} s, still for {still:.2f} s at a time"
    )


def do(task: Task, plan: Plan, reach: Reach) -> float:
    """Takes the lease, moves its duty, or renews it."""
    lease, duty = _lease(task), float(plan.wanted)
    if plan.ours == (plan.wanted,) and lease in _hand.renewed(reach, [lease], TTL):
        return duty
    told = reach.hand("freeze", unit=task.target["unit"], duty=duty, period=task.own.period, lease=lease, ttl=TTL)
    return float(told["now"])


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """Lets the lease go; one that has ended by itself needs nothing."""
    _hand.let_go(reach, [_lease(task)])


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, float]:
    """As configured; without evidence down to SAFE by steps, and never up: what a lower duty held is still hot."""
    held = float(moment.held)
    return memory, round(max(min(held, SAFE), held - RAMP), 4) if moment.lost else float(task.own.duty)


def _lease(task: Task) -> str:
    return "freeze-" + re.sub(r"[^A-Za-z0-9._:-]", "_", task.target["unit"])[-57:]
