"""Gives remedies the alerts, the query function and the context of an action."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.alerting.identity import with_identity
from agent.remediation.action_context import LiveActionContext
from agent.remediation.model import AlertInput
from agent.remediation.verification import VerificationInputs
from agent.runtime.clock import Clock
from collectors import Labels
from rules import promql
from rules.alerts import Alert
from rules.evaluator import RuleEvaluator
from rules.history.history import History


@dataclass(frozen=True)
class RemediationContext:
    """The agent's services for remedies; its functions are called on the event loop."""

    clock: Clock
    history: History
    rules: Callable[[], RuleEvaluator]
    identity: Mapping[str, str]
    root: str
    folder: Path
    token_file: Path
    hand_path: str
    posted_alerts: Callable[[int], Iterable[Alert]] = lambda now_ms: ()
    """The alerts that Alertmanagers have posted and that still count as firing."""
    is_silenced: Callable[[Labels], bool] = lambda labels: False

    def iter_own_alerts(self) -> Iterator[Alert]:
        """Yields the alerts of our rules, with their external identity."""
        for alert in self.rules().list_alerts():
            labels = with_identity(alert.labels, self.identity)
            yield alert if labels is alert.labels else replace(alert, labels=labels)

    def iter_alert_inputs(self, now_ms: int) -> Iterator[AlertInput]:
        """Yields every alert, of our rules and posted."""
        rules, windows = self.rules(), dict[str, int]()
        for alert in self.iter_own_alerts():
            if alert.expr not in windows:
                windows[alert.expr] = rules.find_window_ms(alert.expr)
            yield AlertInput(alert, windows[alert.expr])
        yield from (AlertInput(alert, source="webhook") for alert in self.posted_alerts(now_ms))

    def build_verification_inputs(self, now_ms: int) -> VerificationInputs:
        """Collects the inputs of the verdicts."""
        alerts = (*self.iter_own_alerts(), *self.posted_alerts(now_ms))
        return VerificationInputs(now_ms, {alert.labels: alert for alert in alerts}, self.query, self.has_samples_since)

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Returns the present value of an expression."""
        return _compile(expr).evaluate_at(self.history, self.clock.now_ms()).to_dicts()

    def has_samples_since(self, names: Iterable[str], since_ms: int) -> bool:
        """True if all of these metrics that the host has were sampled since then; False if it has none of them."""
        names, host_names = set(names), set(self.history.list_names())
        common = names & host_names
        return not names or (bool(common) and all(self.history.has_samples_since(name, since_ms) for name in common))

    def make_action_context(self) -> LiveActionContext:
        """Makes a context for an action, with a snapshot of History."""
        snapshot = self.history.snapshot()
        return LiveActionContext(snapshot, self.clock.now_ms(), self.root, self.hand_path, self.token_file)


@functools.lru_cache(maxsize=1024)
def _compile(expr: str) -> promql.Query:
    return promql.compile(expr)
