"""The HTTP endpoints of an engine or gateway that can pace: GET /metrics and PUT /pace."""

from __future__ import annotations

import json
import re

from agent.actions import ActionContext, FailedError, Task

_DUTY_SAMPLE = re.compile(r"^steadytok_\w*?_?duty(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def read_duty(task: Task, context: ActionContext) -> float | None:
    """Reads the engine's duty; None if the engine does not expose it."""
    answer = context.http("GET", f"{_engine_url(task)}/metrics")
    duties = [float(text) for text in _DUTY_SAMPLE.findall(answer.body)] if answer.status == 200 else []
    return min(duties, default=None)


def put_pace(task: Task, duty: float, ttl: float, context: ActionContext) -> None:
    """Takes or renews the lease of a duty; FailedError if the engine refuses it."""
    body = json.dumps({"duty": duty, "ttl": f"{ttl:g}s"}).encode()
    token = context.token(task.own.token_file)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = context.http("PUT", f"{_engine_url(task)}/pace", body, headers)
    if answer.status == 404:
        raise FailedError(
            f"{describe_target(task)} has no PUT /pace; name a gateway in front of it with target: {{url: …}}"
        )
    if answer.status // 100 != 2:
        raise FailedError(
            f"{describe_target(task)} refused the pace: HTTP {answer.status}: {answer.body[:200].strip()}"
        )


def _engine_url(task: Task) -> str:
    return (task.target.get("url") or task.engines[task.target["engine"]]).rstrip("/")


def engine_name(task: Task) -> str:
    """Returns the engine's name; empty for a gateway."""
    return task.target.get("engine", "")


def describe_target(task: Task) -> str:
    """Returns the engine or gateway in words."""
    return f"engine {task.target['engine']}" if "engine" in task.target else task.target.get("url", "?")
