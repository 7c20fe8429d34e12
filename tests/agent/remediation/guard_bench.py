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


def make_alert(name: str = "Hot", dimm: str = "A1", **changes: Any) -> Alert:
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


class GuardBench:
    """The guards with a clock, and acts that end as a test says."""

    def __init__(self, *remedies: Remedy, observing: bool = False, max_per_hour: int = 12, window_ms: int = 0) -> None:
        self.state = RemediationState()
        self.now = HOUR_MS * 1000
        self.remedies, self.observing, self.max_per_hour = remedies or (COOL,), observing, max_per_hour
        self.window_ms, self.killed, self.halted = window_ms, False, ""
        self.audit_lines: list[str] = []

    def tick(self, *alerts: Alert, after_ms: int = 1000) -> Decision:
        self.now += after_ms
        alert_inputs = tuple(AlertInput(alert, self.window_ms) for alert in alerts)
        inputs = DecisionInputs(
            self.now,
            self.observing,
            self.remedies,
            alert_inputs,
            self.max_per_hour,
            killed=self.killed,
            halted=self.halted,
        )
        return self.adopt(guards.decide(self.state, inputs))

    def apply_verdicts(self, *alerts: Alert) -> None:
        """Applies the verdicts that are due."""
        catalog = {each.name: each for each in self.remedies}
        alerts_by_labels = {alert.labels: alert for alert in alerts}
        for event in list(
            collect_verdicts(
                self.state.acts, catalog, VerificationInputs(self.now, alerts_by_labels, lambda _: [], lambda *_: True)
            )
        ):
            self.adopt(transitions.apply(self.state, event, self.now))

    def apply_event(self, act: Act, kind: EventKind, **fields: Any) -> Decision:
        return self.adopt(transitions.apply(self.state, Event(act.id, kind, **fields), self.now))

    def adopt(self, decision: Decision) -> Decision:
        self.state = decision.state
        self.audit_lines += [f"{entry.what}: {entry.says}" for entry in decision.entries]
        return decision

    def hold(self, act: Act) -> Act:
        """Returns the act after its plan and its write."""
        self.apply_event(act, EventKind.INTENDED, prior="1.0", value="0.7")
        self.apply_event(act, EventKind.DID, value="0.7")
        held_act = self.state.find_act(act.id)
        assert held_act is not None
        return held_act

    def begin_act(self, *alerts: Alert, after_ms: int = 1000) -> Act:
        """Returns the act that the next tick begins."""
        (act,) = self.tick(*alerts, after_ms=after_ms).begin
        return act

    def pass_time(self, total_ms: int, *alerts: Alert, each_ms: int = MINUTE) -> list[Act]:
        """Returns the acts that begin while time passes and the alerts stay."""
        return [act for _ in range(total_ms // each_ms) for act in self.tick(*alerts, after_ms=each_ms).begin]
