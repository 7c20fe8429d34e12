"""webhook: one POST of the alert as JSON to an address of the operator's, never repeated after a lost answer."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable

import msgspec

from agent.actions import ActionContext, FailedError, Plan, Task
from agent.text.units import name_url, url_origin

TARGET = ("url",)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The request besides the alert."""

    token_file: str | None = None
    """A file whose content is sent as a bearer token."""


def describe(task: Task) -> str:
    """Describes the action for people."""
    return f"posts the alert to {url_origin(task.target.get('url', ''))}"


def resource(task: Task) -> str:
    """Names the address without its path, which is the secret of many."""
    return f"webhook {name_url(task.target.get('url', ''))}"


def faults(task: Task) -> Iterable[str]:
    """Checks the target."""
    parts = urllib.parse.urlsplit(task.target.get("url", ""))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield "target.url: expected http://HOST/PATH"  # its value can be a secret without a scheme


def plan(task: Task, context: ActionContext) -> Plan:
    """Reads nothing: probing a webhook would trigger it."""
    return Plan(None, "posted", f"POST to {url_origin(task.target['url'])}")


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Sends one request; 2xx is success, any other answer a failure, and no answer is unknown."""
    body = msgspec.json.encode({"remedy": task.remedy, "labels": dict(task.labels)})
    headers = {"Content-Type": "application/json"}
    if task.own.token_file is not None:
        headers["Authorization"] = f"Bearer {context.token(task.own.token_file)}"
    answer = context.http("POST", task.target["url"], body, headers)
    if answer.status // 100 != 2:
        raise FailedError(f"HTTP {answer.status}: {answer.body[:200].strip()}")
    return f"HTTP {answer.status}"
