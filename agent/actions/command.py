"""
command: has the hand start a program that root has named, with the arguments and the user that root has given it.

The alert reaches the program in environment variables alone, such as STEADYTOK_LABEL_NODE for the label node. hand.toml
lists their names, and characters that mean something to a shell are replaced. The effects of the program are unknown,
so nothing is undone, and a program that does not end is not started again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agent.actions import ActionContext, FailedError, Plan, RefusedError, Task, _hand

TARGET = ("name",)
VERBS = ("command",)
NEEDS = "`[commands.NAME]`"
MAX_VALUE_CHARS = 128  # characters of a value
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_UNSAFE_CHARS = re.compile(r"[^A-Za-z0-9 ._:/%+@,-]")


def describe(task: Task) -> str:
    """Describes the action for people."""
    return f"has the hand start {task.target['name']} of hand.toml"


def resource(task: Task) -> str:
    """Names the command."""
    return f"command {task.target['name']}"


def faults(task: Task) -> Iterable[str]:
    """Checks the target."""
    if not _NAME.fullmatch(task.target.get("name", "")):
        yield f"target.name: expected a name of hand.toml's commands, found {task.target.get('name', '')!r}"


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses a command that hand.toml does not have."""
    name, hello = task.target["name"], _hand.fetch_hello(context)
    commands: Mapping[str, list[str]] = (hello or {}).get("commands", {})
    if hello is not None and name not in commands:
        raise RefusedError(f"hand.toml has no [commands.{name}]; there are: {', '.join(sorted(commands)) or 'none'}")
    environment = {key: value for key, value in _build_environment(task).items() if key in commands.get(name, [])}
    variables = ", ".join(f"{key}={value}" for key, value in sorted(environment.items()))
    return Plan(
        None, {"name": name, "environment": environment}, f"{name} with {variables or 'no variable of the alert'}"
    )


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Runs the program to its end; a status other than 0 is a failure with the end of its output."""
    result = context.hand("command", **plan.wanted)
    output = " ".join(str(result["output"]).split())[-200:]
    if result["status"] != 0:
        raise FailedError(f"{plan.wanted['name']} ended with status {result['status']}: {output or 'no output'}")
    return f"{plan.wanted['name']} ended in {float(result['seconds']):.1f} s{f': {output}' if output else ''}"


def _build_environment(task: Task) -> dict[str, str]:
    """Returns the remedy's name and each label; `_` replaces characters that are unsafe in a name or a value."""
    labels = {f"STEADYTOK_LABEL_{re.sub('[^A-Z0-9_]', '_', key.upper())}": value for key, value in task.labels.items()}
    variables = {"STEADYTOK_REMEDY": task.remedy, **labels}
    return {key: _UNSAFE_CHARS.sub("_", value)[:MAX_VALUE_CHARS] for key, value in variables.items()}
