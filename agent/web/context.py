"""The one value object that the web endpoints are built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from agent.alerting.webhook_inbox import Inbox
from agent.remediation.remediator import Remediator
from agent.runtime.step_guard import StepFault
from agent.web.shared_rendering import Prepare
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
    metrics: Prepare
    """Takes the newest values; the function that it returns renders them as the body of /metrics, in a thread."""
    tick_number: Callable[[], int]
    """Counts the ticks: between two of them, rules, alerts and /metrics stay as they are."""
    since_tick: Callable[[], float | None]
    """Returns the seconds since the last tick; None before the first."""
    step_faults: Callable[[], Sequence[StepFault]]
    """Returns the steps of the tick, and the scheduled jobs, whose last run failed."""
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
