"""
governor: the frequency governor of each policy, or its energy preference, held by leases of the hand.

With intel_pstate (and amd-pstate in its active mode) "powersave" is the ordinary governor, which scales up under load
by itself: there the preference matters. https://docs.kernel.org/admin-guide/pm/intel_pstate.html#active-mode
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import ActionContext, ActionError, Moment, Plan, RefusedError, Task, _hand

TARGET = ("policy",)
REVERSIBLE = True
TTL = 30.0
VERBS = ("governor", "epp")
CPUFREQ_PATH = "sys/devices/system/cpu/cpufreq"
SELF_SCALING_DRIVERS = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
THROTTLING_QUERY = 'ALERTS{alertname="CpuThermalThrottling", alertstate="firing"}'
_POLICY_NAME = re.compile(r"policy(\d+)")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Either a governor or a preference."""

    governor: str | None = None
    """The value for scaling_governor, such as performance."""
    preference: str | None = None
    """The value for energy_performance_preference, where the driver scales by itself."""


def describe(task: Task) -> str:
    """Describes the action for people."""
    return f"sets {_setting_name(task)} of {_describe_policies(task)} to {_setting_value(task)}"


def resource(task: Task) -> str:
    """Names all policies, or one, which is a part of all."""
    return f"{_setting_name(task)}/{task.target['policy']}" if "policy" in task.target else _setting_name(task)


def strength(task: Task) -> float:
    """The value that saves more power is the stricter one."""
    order = ("powersave", "power", "balance_power", "conservative", "schedutil", "ondemand", "balance_performance")
    return float(order.index(_setting_value(task))) if _setting_value(task) in order else float(len(order))


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if (task.own.governor is None) == (task.own.preference is None):
        yield "expected governor: NAME, or preference: NAME"
    if "policy" in task.target and not task.target["policy"].isdecimal():
        yield f"target.policy: expected a number, found {task.target['policy']!r}"


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses while a processor is hot, and a governor where the kernel's driver scales by itself."""
    if context.query(THROTTLING_QUERY):
        raise RefusedError("a processor throttles itself by heat now; a faster governor would make it worse")
    settings = {number: _read_setting(context, number, _setting_file(task)) for number in _list_policies(task, context)}
    prior = {number: value for number, value in settings.items() if value is not None}
    differing = {number: value for number, value in prior.items() if value != _setting_value(task)}
    if not settings:
        raise RefusedError(f"no {_describe_policies(task)}: this kernel has no cpufreq driver")
    if not differing:
        raise RefusedError(f"{_setting_name(task)} is {_setting_value(task)} already, or cannot be read")
    drivers = {number: _read_setting(context, number, "scaling_driver") for number in differing}
    if task.own.governor and any(differing[n] == "powersave" and drivers[n] in SELF_SCALING_DRIVERS for n in differing):
        raise RefusedError('"powersave" is the ordinary governor of this driver and slows nothing; set a preference')
    # All policies are held, also those with the right value already: a stricter remedy may take over.
    subject = f"{len(differing)} policies" if len(differing) > 1 else f"policy {next(iter(differing))}"
    return Plan(
        prior,
        dict.fromkeys(prior, _setting_value(task)),
        f"{_setting_name(task)} of {subject} to {_setting_value(task)}",
    )


def do(task: Task, plan: Plan, context: ActionContext) -> Any:
    """Takes a lease for each policy, or renews it; a partial success is released."""
    leases = {number: _lease_name(task, number) for number in plan.wanted}
    renewed = _hand.renew_leases(context, list(leases.values()), TTL) if plan.ours == (plan.wanted,) else set()
    new_leases = []
    try:
        for number, lease in leases.items():
            if lease not in renewed:
                _take_lease(task, number, lease, plan, context)
                new_leases.append(lease)
    except ActionError:
        for lease in new_leases:
            context.hand("release", lease=lease)
        raise
    return plan.wanted


def undo(task: Task, plan: Plan, context: ActionContext) -> None:
    """Releases the leases; the hand has undone those that ended."""
    _hand.release_leases(context, [_lease_name(task, number) for number in plan.prior])


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """Returns the configured value."""
    return memory, dict.fromkeys(moment.held, _setting_value(task))


def _take_lease(task: Task, number: str, lease: str, plan: Plan, context: ActionContext) -> None:
    arguments = {"policy": int(number), "lease": lease, "ttl": TTL, "expected": plan.prior[number]}
    verb, key = ("governor", "governor") if task.own.governor else ("epp", "preference")
    context.hand(verb, **{key: plan.wanted[number]}, **arguments)


def _list_policies(task: Task, context: ActionContext) -> list[str]:
    if "policy" in task.target:
        return [task.target["policy"]]
    matches = (_POLICY_NAME.fullmatch(name) for name in context.host.names(CPUFREQ_PATH))
    return sorted((match[1] for match in matches if match), key=int)


def _read_setting(context: ActionContext, number: str, file: str) -> str | None:
    text = context.host.read(f"{CPUFREQ_PATH}/policy{number}/{file}")
    return None if text is None else text.strip()


def _setting_file(task: Task) -> str:
    return "scaling_governor" if task.own.governor else "energy_performance_preference"


def _setting_name(task: Task) -> str:
    return "the governor" if task.own.governor else "the energy preference"


def _setting_value(task: Task) -> str:
    return str(task.own.governor or task.own.preference)


def _describe_policies(task: Task) -> str:
    return f"policy {task.target['policy']}" if "policy" in task.target else "all policies"


def _lease_name(task: Task, number: str) -> str:
    return f"{_setting_name(task).split()[-1]}-{number}"
