"""
freeze: holds back an engine that cannot pace, by freezing its unit for a share of each second.

The hand uses the freezer of the unit's cgroup, under a lease: without a renewal the unit runs freely again. Off for
every engine that is not named. Probes of the engine (Kubernetes' livenessProbe, WatchdogSec=, a load balancer) wait
meanwhile: `longest_stop` in hand.toml bounds each stop of a unit. https://docs.kernel.org/admin-guide/cgroup-v2.html
(cgroup.freeze)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import ActionContext, Moment, Plan, RefusedError, Task, _engine, _hand
from agent.actions._duty import FULL_DUTY, steer_fixed_duty

TARGET = ("engine", "unit")
REVERSIBLE = True
TTL = 30.0
HOLDS_DUTY = True
NAMED = True
VERBS = ("freeze",)
NEEDS = "`freeze = true`"
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.(?:service|scope|slice)")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How long the unit is frozen, and how often."""

    duty: float = 0.7
    """Share of each period that the unit may run."""
    period: float = 1.0
    """Seconds; a shorter period is the same duty in shorter stops."""


def describe(task: Task) -> str:
    """Describes the action for people."""
    return f"lets {task.target['unit']} run for {task.own.duty:.0%} of each {task.own.period:g} s"


def resource(task: Task) -> str:
    """Names the unit's freezer."""
    return f"freezer of {task.target['unit']}"


def strength(task: Task) -> float:
    """The lowest duty wins."""
    return float(task.own.duty)


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if fault := _engine.check_engine_target(task):
        yield fault
    if not _UNIT_NAME.fullmatch(task.target.get("unit", "")):
        yield f"target.unit: expected a unit such as llama.service, found {task.target.get('unit', '')!r}"
    if not 0.1 <= task.own.duty < 1:
        yield "duty: expected 0.1 or more, and less than 1"
    if not 0.05 <= task.own.period <= 10:
        yield "period: expected 0.05 to 10 (seconds)"


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses if a liveness probe could take the engine for dead, or if something holds it back already."""
    unit, config = task.target["unit"], task.own
    unit_rules = _hand.require_unit(context, unit, "freeze")
    max_stop, stop_seconds = unit_rules.get("longest_stop"), (1 - config.duty) * config.period
    if max_stop is not None and stop_seconds > max_stop:
        raise RefusedError(
            f"{unit} would stand still for {stop_seconds:.2f} s at a time, and longest_stop in hand.toml is "
            f"{max_stop:g} s: a "
            "liveness probe might kill it; use a shorter period, or raise longest_stop to what its probes bear"
        )
    freezer = f"sys/fs/cgroup{unit_rules.get('cgroup', f'/system.slice/{unit}')}/cgroup.freeze"
    if context.host.read(freezer, optional=True) == "1":
        raise RefusedError(f"{unit} is frozen already, by another program")
    _engine.refuse_while_paced(task, context)
    return Plan(
        FULL_DUTY,
        config.duty,
        f"{unit} runs for {config.duty:.0%} of each {config.period:g} s, still for {stop_seconds:.2f} s at a time",
    )


def do(task: Task, plan: Plan, context: ActionContext) -> float:
    """Takes the lease, changes its duty, or renews it."""
    lease, duty = _lease_name(task), float(plan.wanted)
    if plan.ours == (plan.wanted,) and lease in _hand.renew_leases(context, [lease], TTL):
        return duty
    result = context.hand("freeze", unit=task.target["unit"], duty=duty, period=task.own.period, lease=lease, ttl=TTL)
    return float(result["now"])


def undo(task: Task, plan: Plan, context: ActionContext) -> None:
    """Releases the lease; one that has ended by itself needs nothing."""
    _hand.release_leases(context, [_lease_name(task)])


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, float]:
    """Returns the configured duty, or without evidence the next step to the safe one."""
    return memory, steer_fixed_duty(float(task.own.duty), moment)


def _lease_name(task: Task) -> str:
    return "freeze-" + re.sub(r"[^A-Za-z0-9._:-]", "_", task.target["unit"])[-57:]
