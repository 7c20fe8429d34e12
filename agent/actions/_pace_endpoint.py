"""The HTTP endpoints of an engine or gateway that can pace: GET /metrics and PUT /pace."""

from __future__ import annotations

import json
import re

from agent.actions import ActionContext, FailedError, Task
from agent.text.units import name_url

_TOKEN_HINT = (
    "start the engine with --token-file and the file pace_token of the state folder, or name the engine's own "
    "credential as token_file; engines of older versions know the file token and must be started anew"
)
_DUTY_SAMPLE = re.compile(r"^steadytok_\w*?_?duty(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def read_duty(task: Task, context: ActionContext) -> float | None:
    """Reads the engine's duty; None if the engine does not expose it."""
    answer = context.http("GET", f"{_engine_url(task)}/metrics")
    duties = [float(text) for text in _DUTY_SAMPLE.findall(answer.body)] if answer.status == 200 else []
    return min(duties, default=None)


def put_pace(task: Task, duty: float, ttl: float, context: ActionContext) -> None:
    """Takes or renews the lease of a duty; FailedError if the engine refuses it."""
    body = json.dumps({"duty": duty, "ttl": f"{ttl:g}s"}).encode()
    url, file = f"{_engine_url(task)}/pace", task.own.token_file
    if file is None:
        answer = context.http_with_proof("PUT", url, body)
    else:
        headers = {"Authorization": f"Bearer {context.token(file)}", "Content-Type": "application/json"}
        answer = context.http("PUT", url, body, headers)
    if answer.status == 404:
        raise FailedError(
            f"{describe_target(task)} has no PUT /pace; name a gateway in front of it with target: {{url: …}}"
        )
    if answer.status // 100 != 2:
        sentence = f"{describe_target(task)} refused the pace: HTTP {answer.status}: {answer.body[:200].strip()}"
        raise FailedError(f"{sentence}; {_TOKEN_HINT}" if answer.status in (401, 403) and file is None else sentence)


def _engine_url(task: Task) -> str:
    return (task.target.get("url") or task.engines[task.target["engine"]]).rstrip("/")


def engine_name(task: Task) -> str:
    """Returns the engine's name; empty for a gateway."""
    return task.target.get("engine", "")


def describe_target(task: Task) -> str:
    """Returns the engine or gateway in words."""
    return f"engine {task.target['engine']}" if "engine" in task.target else name_url(task.target.get("url", ""))
