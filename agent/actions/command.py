"""
command: has the hand start a program that root has named, with the arguments and the user that root has given it.

What the alert says reaches it in environment variables alone, STEADYTOK_LABEL_NODE for the label node, of those names
that hand.toml lists for it, and of characters that mean nothing to a shell. It is not known what it did, so nothing is
put back, and where it does not end it is not started again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from agent.actions import FailedError, Moment, Plan, Reach, RefusedError, Task, _hand

TARGET = ("name",)
REVERSIBLE = False
TTL = None
VERBS = ("command",)
LONGEST = 128  # characters of a value
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_ODD = re.compile(r"[^A-Za-z0-9 ._:/%+@,-]")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """It has no parameters: arguments are root's alone."""


def describe(task: Task) -> str:
    """What it does, in words."""
    return f"has the hand start {task.target['name']} of hand.toml"


def resource(task: Task) -> str:
    """The command."""
    return f"command {task.target['name']}"


def strength(task: Task) -> float:
    """It holds nothing."""
    return 0.0


def faults(task: Task) -> Iterable[str]:
    """What is wrong with the target."""
    if not _NAME.fullmatch(task.target.get("name", "")):
        yield f"target.name: expected a name of hand.toml's commands, found {task.target.get('name', '')!r}"


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses where hand.toml has no such command."""
    name, told = task.target["name"], _hand.allowed(reach)
    there: Mapping[str, list[str]] = (told or {}).get("commands", {})
    if told is not None and name not in there:
        raise RefusedError(f"hand.toml has no [commands.{name}]; there are: {', '.join(sorted(there)) or 'none'}")
    environment = {key: value for key, value in _environment(task).items() if key in there.get(name, [])}
    given = ", ".join(f"{key}={value}" for key, value in sorted(environment.items()))
    return Plan(None, {"name": name, "environment": environment}, f"{name} with {given or 'no variable of the alert'}")


def do(task: Task, plan: Plan, reach: Reach) -> str:
    """Has it started and waits for its end; a status other than 0 is a failure with the end of what it said."""
    told = reach.hand("command", **plan.wanted)
    said = " ".join(str(told["output"]).split())[-200:]
    if told["status"] != 0:
        raise FailedError(f"{plan.wanted['name']} ended with status {told['status']}: {said or 'it said nothing'}")
    return f"{plan.wanted['name']} ended in {float(told['seconds']):.1f} s{f': {said}' if said else ''}"


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """What a program did is its own."""


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """It holds nothing."""
    return memory, moment.held


def _environment(task: Task) -> dict[str, str]:
    """The remedy's name and each label; what is no letter of a variable's name, or no harmless character, is `_`."""
    labels = {f"STEADYTOK_LABEL_{re.sub('[^A-Z0-9_]', '_', key.upper())}": value for key, value in task.labels.items()}
    told = {"STEADYTOK_REMEDY": task.remedy, **labels}
    return {key: _ODD.sub("_", value)[:LONGEST] for key, value in told.items()}
