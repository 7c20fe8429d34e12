"""
governor: the frequency governor of each policy, or its energy preference, held by leases of the hand.

With intel_pstate (and amd-pstate in its active mode) "powersave" is the ordinary governor, which scales up under load
by itself: there the preference is what matters. https://docs.kernel.org/admin-guide/pm/intel_pstate.html#active-mode
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import ActionError, Moment, Plan, Reach, RefusedError, Task, _hand

TARGET = ("policy",)
REVERSIBLE = True
TTL = 30.0
VERBS = ("governor", "epp")
FOLDER = "sys/devices/system/cpu/cpufreq"
SELF_SCALING = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
HOT = 'ALERTS{alertname="CpuThermalThrottling", alertstate="firing"}'
_POLICY = re.compile(r"policy(\d+)")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two."""

    governor: str | None = None
    """What scaling_governor is set to, such as performance."""
    preference: str | None = None
    """What energy_performance_preference is set to, where the driver scales by itself."""


def describe(task: Task) -> str:
    """What it does, in words."""
    return f"sets {_what(task)} of {_policies_named(task)} to {_value(task)}"


def resource(task: Task) -> str:
    """All policies, or one, which is a part of all."""
    return f"{_what(task)}/{task.target['policy']}" if "policy" in task.target else _what(task)


def strength(task: Task) -> float:
    """What saves more power is the more restrictive."""
    order = ("powersave", "power", "balance_power", "conservative", "schedutil", "ondemand", "balance_performance")
    return float(order.index(_value(task))) if _value(task) in order else float(len(order))


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if (task.own.governor is None) == (task.own.preference is None):
        yield "expected governor: NAME, or preference: NAME"
    if "policy" in task.target and not task.target["policy"].isdecimal():
        yield f"target.policy: expected a number, found {task.target['policy']!r}"


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses while a processor is hot, and where the kernel's driver scales by itself."""
    if reach.query(HOT):
        raise RefusedError("a processor throttles itself by heat now; a faster governor would make it worse")
    read = {number: _read(reach, number, _file(task)) for number in _numbers(task, reach)}
    prior = {number: value for number, value in read.items() if value is not None}
    found = {number: value for number, value in prior.items() if value != _value(task)}
    if not read:
        raise RefusedError(f"no {_policies_named(task)}: this kernel has no cpufreq driver")
    if not found:
        raise RefusedError(f"{_what(task)} is {_value(task)} already, or not to be read")
    drivers = {number: _read(reach, number, "scaling_driver") for number in found}
    if task.own.governor and any(found[n] == "powersave" and drivers[n] in SELF_SCALING for n in found):
        raise RefusedError('"powersave" is the ordinary governor of this driver and slows nothing; set a preference')
    # All are held, those that have the value already too: a stricter remedy may take this one's place.
    count = f"{len(found)} policies" if len(found) > 1 else f"policy {next(iter(found))}"
    return Plan(prior, dict.fromkeys(prior, _value(task)), f"{_what(task)} of {count} to {_value(task)}")


def do(task: Task, plan: Plan, reach: Reach) -> Any:
    """Takes a lease for each policy, or renews those that it holds; what half succeeded is let go."""
    leases = {number: _lease(task, number) for number in plan.wanted}
    renewed = _hand.renewed(reach, list(leases.values()), TTL) if plan.ours == (plan.wanted,) else set()
    taken = []
    try:
        for number, lease in leases.items():
            if lease not in renewed:
                _take(task, number, lease, plan, reach)
                taken.append(lease)
    except ActionError:
        for lease in taken:
            reach.hand("release", lease=lease)
        raise
    return plan.wanted


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """Lets the leases go; one that has ended was put back by the hand itself."""
    _hand.let_go(reach, [_lease(task, number) for number in plan.prior])


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """Always the same."""
    return memory, dict.fromkeys(moment.held, _value(task))


def _take(task: Task, number: str, lease: str, plan: Plan, reach: Reach) -> None:
    arguments = {"policy": int(number), "lease": lease, "ttl": TTL, "expected": plan.prior[number]}
    verb, key = ("governor", "governor") if task.own.governor else ("epp", "preference")
    reach.hand(verb, **{key: plan.wanted[number]}, **arguments)


def _numbers(task: Task, reach: Reach) -> list[str]:
    if "policy" in task.target:
        return [task.target["policy"]]
    found = (_POLICY.fullmatch(name) for name in reach.host.names(FOLDER))
    return sorted((match[1] for match in found if match), key=int)


def _read(reach: Reach, number: str, file: str) -> str | None:
    text = reach.host.read(f"{FOLDER}/policy{number}/{file}")
    return None if text is None else text.strip()


def _file(task: Task) -> str:
    return "scaling_governor" if task.own.governor else "energy_performance_preference"


def _what(task: Task) -> str:
    return "the governor" if task.own.governor else "the energy preference"


def _value(task: Task) -> str:
    return str(task.own.governor or task.own.preference)


def _policies_named(task: Task) -> str:
    return f"policy {task.target['policy']}" if "policy" in task.target else "all policies"


def _lease(task: Task, number: str) -> str:
    return f"{_what(task).split()[-1]}-{number}"
