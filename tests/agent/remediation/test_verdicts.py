"""When a verdict is due, and its evidence: samples newer than the act, an alert whose end is newer than the act."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.loader import parse
from agent.remediation import catalog, verification
from agent.remediation.context import RemediationContext
from agent.remediation.model import Act, Claim, Event, EventKind, Phase, Remedy
from agent.runtime.clock import Clock
from collectors import gauge
from rules.alerts import Alert, AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.model import RuleSet

HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Headroom.")
LABELS = (("alertname", "DimmHot"), ("dimm", "A1"))
EXPR = "steadytok_dimm_headroom_celsius < 5"
SECOND = 1000
BEGAN = 1_700_000_000_000
ACT = Act(1, "cool-memory/r1", "pace engine r1", LABELS, False, True, Phase.HELD, BEGAN, (), BEGAN, "1.0", ("0.7",))
HOT = Alert("DimmHot", LABELS, (), AlertState.FIRING, 3.0, BEGAN - 60_000, EXPR, SECOND, fired_at_ms=BEGAN - 60_000)


class Host:
    """A host with one DIMM, read each second, the built-in remedies and one of the operator's."""

    def __init__(self, folder: Path) -> None:
        self.history, self.now_ms, self.headroom = History(3_600_000), BEGAN - 300 * SECOND, 3.0
        rules = RuleEvaluator(RuleSet(()), interval_ms=SECOND, external_labels={}, external_url="")
        clock = Clock(lambda: 0.0, lambda: self.now_ms / 1000)
        self.context = RemediationContext(clock, self.history, lambda: rules, {}, "/", folder, folder / "token", "none")
        clock.now_ms = lambda: self.now_ms
        plain = {"name": "plain", "match": ['alertname="DimmHot"'], "action": "pace", "target": {"engine": "r1"}}
        document = {"engines": [{"name": "r1", "url": "http://127.0.0.1:1"}], "remedies": [plain]}
        self.catalog = {each.name: each for each in catalog.bind_remedies(parse(document, "f", {}), "f")}

    def pass_seconds(self, seconds: int, *, read: bool = True) -> None:
        for _ in range(seconds):
            self.now_ms += SECOND
            if read:
                self.history.record("dimm", self.now_ms, [HEADROOM.sample(self.headroom, dimm="A1")])

    def find_verdict(
        self, act: Act = ACT, alert: Alert | None = HOT, remedies: dict[str, Remedy] | None = None
    ) -> Event | None:
        inputs = self.context.build_verification_inputs(self.now_ms)._replace(
            alerts={} if alert is None else {alert.labels: alert}
        )
        return next(verification.collect_verdicts([act], self.catalog if remedies is None else remedies, inputs), None)


@pytest.fixture(name="host")
def _host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.pass_seconds(300)
    yield host


def test_the_remedy_that_ships_is_not_helped_by_what_was_before(host: Host) -> None:
    """A DIMM flat at 3 °C below its limit fits the expression at once; it counts after two minutes of newer samples."""
    host.pass_seconds(1)
    verdicts = []
    for _ in range(150):
        verdicts.append(host.find_verdict())
        host.pass_seconds(1)
    kinds = [None if each is None else each.kind for each in verdicts]

    assert kinds[:119] == [None] * 119
    assert kinds[119:] == [EventKind.HELPED] * 31


def test_what_the_expression_gave_before_is_measured(host: Host) -> None:
    """The diary shows both, so that an unchanged value is visible."""
    started = replace(ACT, phase=Phase.STARTED, did_ms=None)
    before = verification.measure_before(started, host.catalog, host.context.build_verification_inputs(host.now_ms))
    host.pass_seconds(200)
    event = host.find_verdict(replace(ACT, before=before))

    assert before.expression_values == (3.0,)
    assert event is not None
    assert event.detail == "its expression 3 -> 3"


def test_silent_sensors_judge_nothing(host: Host) -> None:
    """Without newer samples the act is not judged once its time is up, and nobody waits longer."""
    host.pass_seconds(299, read=False)
    assert host.find_verdict() is None
    host.pass_seconds(1, read=False)
    event = host.find_verdict()

    assert event is not None
    assert (event.kind, event.detail) == (EventKind.UNJUDGED, "no samples newer than the act")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"state": AlertState.RESOLVED, "resolved_at_ms": BEGAN + 5 * SECOND}, EventKind.HELPED),
        ({"state": AlertState.RESOLVED, "resolved_at_ms": BEGAN - SECOND}, EventKind.UNJUDGED),
        ({"state": AlertState.RESOLVED, "resolved_at_ms": BEGAN + 5 * SECOND, "fresh": False}, EventKind.UNJUDGED),
        ({"fresh": False, "lost_since_ms": BEGAN + SECOND}, EventKind.UNJUDGED),
        (None, EventKind.UNJUDGED),
        ({}, EventKind.USELESS),
    ],
)
def test_without_an_expression_the_alert_says(host: Host, changes: dict[str, Any] | None, kind: EventKind) -> None:
    """The alert's end counts if it rests on samples newer than the act; a missing or lost alert shows nothing."""
    alert = None if changes is None else replace(HOT, **changes)
    host.pass_seconds(300)
    event = host.find_verdict(replace(ACT, remedy="plain"), alert)

    assert event is not None
    assert event.kind is kind


def test_an_end_counts_at_once_and_on_a_sample_that_is_newer(host: Host) -> None:
    """An end on samples after the act counts as helped, however soon; an end on older samples does not."""
    ended = replace(HOT, state=AlertState.RESOLVED, resolved_at_ms=BEGAN + 700)
    host.now_ms += 700
    assert host.find_verdict(replace(ACT, remedy="plain"), ended) is None

    host.pass_seconds(1)
    event = host.find_verdict(replace(ACT, remedy="plain"), ended)
    assert event is not None
    assert event.kind is EventKind.HELPED


def test_a_remedy_that_is_gone_is_not_judged_and_waited_for(host: Host) -> None:
    """The verdict comes at once, whether the remedy began the act or tightened it."""
    gone = host.find_verdict(remedies={})
    tightened = replace(ACT, pending_tightening=Claim("left", LABELS, 0.4))

    assert gone is not None
    assert (gone.kind, gone.detail) == (EventKind.UNJUDGED, "cool-memory/r1 has left the configuration")
    assert [event.detail for event in [host.find_verdict(tightened)] if event] == ["left has left the configuration"]


def test_an_expression_that_cannot_be_asked_gives_nothing(host: Host) -> None:
    """An expression that the alert's labels break never counts as helped, and raises nothing."""
    labels = (("alertname", "DimmHot"), ("dimm", 'A"1'))
    host.pass_seconds(400)
    event = host.find_verdict(replace(ACT, labels=labels), replace(HOT, labels=labels))

    assert event is not None
    assert event.kind is EventKind.USELESS
