"""The guards with a clock and a handful of remedies, for the tests of their contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.alerting.matchers import parse_matchers
from agent.config.schema import RemedySettings
from agent.remediation import guards, transitions
from agent.remediation.guards import HOUR_MS
from agent.remediation.model import (
    Act,
    AlertInput,
    Decision,
    DecisionInputs,
    Event,
    EventKind,
    RemediationState,
    Remedy,
)
from agent.remediation.verification import VerificationInputs, collect_verdicts
from rules.alerts import Alert, AlertState

MINUTE = 60_000
NO_ACTION: Any = None
COOL = Remedy(
    name="cool",
    match=(parse_matchers('alertname="Hot"'),),
    resource="pace r1",
    reversible=True,
    strength=0.7,
    cooldown_ms=10 * MINUTE,
    max_per_hour=3,
    max_attempts=3,
    settings=RemedySettings(name="any", match=("",), action="pace"),
    action=NO_ACTION,
    task=NO_ACTION,
)
COLDER = replace(COOL, name="colder", match=(parse_matchers('alertname="Hotter"'),), strength=0.4)
PART = replace(COOL, name="part", match=(parse_matchers('alertname="Half"'),), resource="pace r1/0", strength=0.3)
DROP = replace(COOL, name="drop", match=(parse_matchers('alertname="Full"'),), resource="page cache", reversible=False)


def hot(name: str = "Hot", dimm: str = "A1", **changes: Any) -> Alert:
    """A firing alert with its evidence."""
    alert = Alert(
        name=name,
        labels=(("alertname", name), ("dimm", dimm)),
        annotations=(),
        state=AlertState.FIRING,
        value=1.0,
        active_at_ms=0,
        expr="up",
        interval_ms=1000,
        fired_at_ms=0,
    )
    return replace(alert, **changes)


class Bench:
    """The guards with a clock, and acts that end as a test says."""

    def __init__(self, *remedies: Remedy, observing: bool = False, max_per_hour: int = 12, window_ms: int = 0) -> None:
        self.state = RemediationState()
        self.now = HOUR_MS * 1000
        self.remedies, self.observing, self.max_per_hour = remedies or (COOL,), observing, max_per_hour
        self.window_ms, self.killed, self.halted = window_ms, False, ""
        self.said: list[str] = []

    def tick(self, *alerts: Alert, after_ms: int = 1000) -> Decision:
        self.now += after_ms
        seen = tuple(AlertInput(alert, self.window_ms) for alert in alerts)
        world = DecisionInputs(
            self.now, self.observing, self.remedies, seen, self.max_per_hour, killed=self.killed, halted=self.halted
        )
        return self._take(guards.decide(self.state, world))

    def judges(self, *alerts: Alert) -> None:
        """What is due by now, of the remedies that there are."""
        book = {each.name: each for each in self.remedies}
        known = {alert.labels: alert for alert in alerts}
        for event in list(
            collect_verdicts(self.state.acts, book, VerificationInputs(self.now, known, lambda _: [], lambda *_: True))
        ):
            self._take(transitions.apply(self.state, event, self.now))

    def happens(self, act: Act, kind: EventKind, **told: Any) -> Decision:
        return self._take(transitions.apply(self.state, Event(act.id, kind, **told), self.now))

    def _take(self, step: Decision) -> Decision:
        self.state = step.state
        self.said += [f"{entry.what}: {entry.says}" for entry in step.entries]
        return step

    def holds(self, act: Act) -> Act:
        """The act after its plan and its write."""
        self.happens(act, EventKind.INTENDED, prior="1.0", value="0.7")
        self.happens(act, EventKind.DID, value="0.7")
        held = self.state.find_act(act.id)
        assert held is not None
        return held

    def acts(self, *alerts: Alert, after_ms: int = 1000) -> Act:
        """The act that the next tick begins."""
        (act,) = self.tick(*alerts, after_ms=after_ms).begin
        return act

    def passes(self, total_ms: int, *alerts: Alert, each_ms: int = MINUTE) -> list[Act]:
        """What is begun while time passes and the alerts stay."""
        return [act for _ in range(total_ms // each_ms) for act in self.tick(*alerts, after_ms=each_ms).begin]
