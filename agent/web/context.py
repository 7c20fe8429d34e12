"""The one value object that the web endpoints are built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from agent.alerting.webhook_inbox import Inbox
from agent.remediation.remediator import Remediator
from rules.evaluator import RuleEvaluator
from rules.history.history import History


@dataclass(frozen=True)
class WebContext:
    """The parts of the agent that endpoints read and change; functions run on the event loop, once per request."""

    history: History
    rules: Callable[[], RuleEvaluator]
    """Returns the current evaluator: a reload replaces it."""
    remedies: Remediator
    inbox: Inbox
    now_ms: Callable[[], int]
    metrics: Callable[[], str]
    """Returns the body of /metrics."""
    since_tick: Callable[[], float | None]
    """Returns the seconds since the last tick; None before the first."""
    identity: Mapping[str, str]
    """`job` and `instance`, which every series carries in the query API."""
    external_labels: Mapping[str, str]
    external_url: str
    version: str
    subquery_step_ms: int
    token: str
    """The secret of the state folder; its holder may change things."""
    registry: CollectorRegistry
    """Counts refused requests and posted alerts."""
