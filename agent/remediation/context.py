"""What remedies are given by the agent, and what they ask of it: alerts, History, the machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.judging import Present
from agent.remediation.action_context import Access
from agent.remediation.model import Seen, whole
from agent.runtime.clock import Clock
from collectors import Labels
from rules import promql
from rules.alerts import Alert
from rules.evaluator import Rules
from rules.history.history import History


@dataclass(frozen=True)
class Surroundings:
    """What remedies are given by the agent; the functions are asked on the event loop."""

    clock: Clock
    history: History
    rules: Callable[[], Rules]
    identity: Mapping[str, str]
    root: str
    folder: Path
    token_file: Path
    hand: str
    posted: Callable[[int], Iterable[Alert]] = lambda now_ms: ()
    """The alerts that Alertmanagers have posted and that still count as firing."""
    silenced: Callable[[Labels], bool] = lambda labels: False

    def own(self) -> Iterator[Alert]:
        """The alerts of our rules, with the labels that they leave the host with."""
        for alert in self.rules().alerts():
            labels = whole(alert.labels, self.identity)
            yield alert if labels is alert.labels else replace(alert, labels=labels)

    def seen(self, now_ms: int) -> Iterator[Seen]:
        """Every alert, our own and those that were posted."""
        rules, windows = self.rules(), dict[str, int]()
        for alert in self.own():
            if alert.expr not in windows:
                windows[alert.expr] = rules.window_ms(_compiled(alert.expr))
            yield Seen(alert, windows[alert.expr])
        yield from (Seen(alert, source="webhook") for alert in self.posted(now_ms))

    def present(self, now_ms: int) -> Present:
        """What verdicts rest on."""
        alerts = (*self.own(), *self.posted(now_ms))
        return Present(now_ms, {alert.labels: alert for alert in alerts}, self.ask, self.heard)

    def ask(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now."""
        found = _compiled(expr).at(self.history, self.clock.now_ms())
        return [(dict(labels), value) for labels, value in found]

    def heard(self, names: Iterable[str], since_ms: int) -> bool:
        """Whether those of some metrics that this host has were all sampled since then; False where it has none."""
        names, here = set(names), set(self.history.names())
        known = names & here
        return not names or (bool(known) and all(self.history.heard(name, since_ms) for name in known))

    def access(self) -> Access:
        """What an action reaches, with History as it is now."""
        snapshot = self.history.snapshot(self.identity)
        return Access(snapshot, self.clock.now_ms(), self.root, self.hand, self.token_file)


@functools.lru_cache(maxsize=1024)
def _compiled(expr: str) -> promql.Query:
    return promql.compile(expr)
