"""Checks of an engine's requests in History, for actions that must not disturb them."""

from __future__ import annotations

from agent.actions import ActionContext, RefusedError, Task
from agent.actions._queries import query_value

_RECENT_WINDOW = "30s"
_DUTY_METRICS = ("steadytok_pace_duty", "steadytok_engine_duty")


def check_engine_target(task: Task) -> str:
    """Returns the fault of `target.engine`; empty if there is none."""
    if "engine" not in task.target:
        return "target: expected engine: NAME; it is off for every engine that is not named"
    if task.target["engine"] not in task.engines:
        return f"target.engine: no engine is named {task.target['engine']!r} under engines:"
    return ""


def refuse_unless_idle(task: Task, context: ActionContext) -> None:
    """Raises RefusedError while requests run or wait, or if that is not known."""
    name = task.target["engine"]
    running = query_value(
        context, f'max(max_over_time(steadytok_engine_requests_running{{engine="{name}"}}[{_RECENT_WINDOW}]))'
    )
    if running is None:
        raise RefusedError(f"it is not known whether engine {name} is idle: it does not report its running requests")
    waiting = query_value(
        context, f'max(max_over_time(steadytok_engine_requests_waiting{{engine="{name}"}}[{_RECENT_WINDOW}]))'
    )
    busy = running + (waiting or 0.0)
    if busy > 0:
        raise RefusedError(f"engine {name} is not idle: it had {busy:.0f} requests within {_RECENT_WINDOW}")


def refuse_unless_cold(task: Task, context: ActionContext) -> None:
    """Raises RefusedError if the engine has generated tokens since it started, or if that is not known."""
    name = task.target["engine"]
    generated = query_value(context, f'max(steadytok_engine_generated_tokens_total{{engine="{name}"}})')
    if generated is None:
        raise RefusedError(f"it is not known whether engine {name} is cold: it does not report its generated tokens")
    if generated > 0:
        raise RefusedError(f"engine {name} is not cold: it has generated {generated:,.0f} tokens since it started")


def refuse_while_paced(task: Task, context: ActionContext) -> None:
    """Raises RefusedError if the engine is already held back: two holds must not add up."""
    name = task.target["engine"]
    duties = [query_value(context, f'min({metric}{{engine="{name}"}})') for metric in _DUTY_METRICS]
    duty = min((duty for duty in duties if duty is not None), default=1.0)
    if duty < 1:
        raise RefusedError(f"engine {name} is paced already, to a duty of {duty:g}")
