"""The contract of remedies, clauses 8 to 13: verdicts, pauses, unknown outcomes, the audit and stale data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.alerting.matchers import parse_matchers
from agent.config.loader import ConfigError, parse
from agent.remediation import guards, transitions
from agent.remediation.catalog import bind_remedies
from agent.remediation.guards import HOUR_MS
from agent.remediation.journal import Journal, read_audit, take_timestamp
from agent.remediation.model import (
    AlertInput,
    AuditEntry,
    Decision,
    DecisionInputs,
    EventKind,
    Phase,
    RemediationState,
    Remedy,
)
from rules.alerts import Alert, AlertState
from tests.agent.remediation.guard_bench import COOL, DROP, MINUTE, GuardBench, make_alert


def test_8_the_evidence_window_is_armed_again_after_an_act() -> None:
    """The alert must hold for a whole cooldown on samples newer than the act; a rule's own window is added."""
    bench = GuardBench(replace(DROP, max_attempts=9), window_ms=5 * MINUTE)
    act = bench.begin_act(make_alert("Full"))
    bench.apply_event(act, EventKind.INTENDED)
    bench.apply_event(act, EventKind.DID)
    bench.apply_event(act, EventKind.HELPED)

    assert not bench.pass_time(14 * MINUTE, make_alert("Full"))
    assert bench.pass_time(2 * MINUTE, make_alert("Full"))


def test_8_an_alert_that_blinks_begins_its_evidence_anew() -> None:
    """Nine minutes, a gap and nine minutes begin no act, though the cooldown is over."""
    bench = GuardBench(DROP)
    bench.apply_event(bench.begin_act(make_alert("Full")), EventKind.REFUSED)

    assert not bench.pass_time(9 * MINUTE, make_alert("Full"))
    bench.tick()
    assert not bench.pass_time(9 * MINUTE, make_alert("Full"))


def test_8_one_act_at_a_time_until_it_is_known_whether_it_helped() -> None:
    """While an act is not verified, no other remedy of the host acts."""
    bench = GuardBench(COOL, DROP)
    act = bench.hold(bench.begin_act(make_alert()))

    assert not bench.pass_time(HOUR_MS, make_alert(), make_alert("Full"))
    bench.apply_event(act, EventKind.HELPED)
    assert [one.remedy for one in bench.tick(make_alert(), make_alert("Full")).begin] == ["drop"]


@pytest.mark.parametrize("removed", [DROP, COOL])
def test_8_what_has_left_the_configuration_keeps_nobody_back(removed: Remedy) -> None:
    """An act of a removed remedy is not judged; nothing waits for it, whoever else claims it."""
    other = replace(removed, name="other", match=(parse_matchers('alertname="Other"'),))
    third = replace(DROP, name="third", resource="swap", match=(parse_matchers('alertname="Third"'),))
    bench, alert = GuardBench(removed, other, third), make_alert("Full" if removed is DROP else "Hot")
    bench.hold(bench.begin_act(alert))
    bench.tick(alert, make_alert("Other"))
    bench.remedies = (other, third)
    bench.apply_verdicts(alert)

    assert [act.remedy for act in bench.tick(make_alert("Other"), make_alert("Third")).begin] == ["third"]
    assert bench.state.effects == {removed.name: f"{removed.name} has left the configuration; effect not measurable"}


def test_8_what_is_being_put_back_keeps_nobody_back() -> None:
    """An undoing may take for ever if the engine has gone; only its own resource waits for it."""
    bench = GuardBench(COOL, DROP)
    act = bench.hold(bench.begin_act(make_alert()))
    bench.tick()
    bench.apply_event(act, EventKind.UNKNOWN, detail="no end within 120 s")
    bench.apply_event(act, EventKind.FAILED, detail="nobody is there")

    assert [each.phase for each in bench.state.acts] == [Phase.RELEASING]
    assert "unexpected: no end within 120 s" not in bench.audit_lines
    assert [one.remedy for one in bench.pass_time(HOUR_MS, make_alert(), make_alert("Full"))] == ["drop"]


def test_8_a_remedy_that_does_not_help_switches_itself_off() -> None:
    """Three acts in a row that did not help make the remedy give up; each is undone."""
    bench = GuardBench(replace(COOL, max_attempts=99, max_per_hour=60))
    begun = 0
    for _ in range(300):
        for act in bench.tick(make_alert(), after_ms=MINUTE).begin:
            begun += 1
            held_act = bench.hold(act)
            assert bench.apply_event(held_act, EventKind.USELESS).release
            bench.apply_event(held_act, EventKind.RESTORED)

    assert begun == transitions.MAX_MISSES
    assert "did not help 3 times" in bench.state.latches[0].why


def test_9_a_pause_begins_nothing_and_the_kill_switch_puts_back() -> None:
    """A named pause leaves held acts; the kill-switch file releases them at once."""
    bench = GuardBench(COOL, DROP)
    act = bench.hold(bench.begin_act(make_alert()))
    bench.apply_event(act, EventKind.HELPED)
    bench.state = transitions.pause(bench.state, "maintenance")

    assert not bench.tick(make_alert(), make_alert("Full")).begin
    assert bench.state.acts
    assert "suppressed: paused: maintenance" in bench.audit_lines

    bench.killed = True

    assert [one.id for one in bench.tick(make_alert(), make_alert("Full")).release] == [act.id]


def test_10_an_ambiguous_outcome_is_not_tried_again() -> None:
    """An unknown outcome latches the remedy, whatever the cooldown."""
    bench = GuardBench(DROP)
    act = bench.begin_act(make_alert("Full"))
    bench.apply_event(act, EventKind.INTENDED)
    bench.apply_event(act, EventKind.UNKNOWN, detail="no answer")

    assert not bench.pass_time(5 * HOUR_MS, make_alert("Full"))
    assert "is unknown" in bench.state.latches[0].why


def test_10_a_journal_that_cannot_be_used_stops_all_acting() -> None:
    """Nothing begins, and the audit has the reason; held acts may still be undone."""
    bench = GuardBench(COOL, DROP)
    bench.apply_event(bench.hold(bench.begin_act(make_alert())), EventKind.HELPED)
    bench.halted = "disk full"

    assert not bench.tick(make_alert(), make_alert("Full")).begin
    assert "suppressed: disk full" in bench.audit_lines
    assert bench.tick(make_alert("Full")).release


def test_11_suppressions_are_told_once_for_each_reason() -> None:
    """The audit has every reason against acting once, and not once a second."""
    bench = GuardBench(DROP)
    bench.apply_event(bench.begin_act(make_alert("Full")), EventKind.REFUSED, detail="only 1 % would be freed")
    bench.pass_time(5 * MINUTE, make_alert("Full"), each_ms=1000)

    assert bench.audit_lines == [
        "begin: ",
        "refused: only 1 % would be freed",
        "suppressed: cooling down since the last attempt",
    ]


def test_11_a_value_that_drifts_is_told_once() -> None:
    """The reason excludes the value, or an implausible sensor would write a line a second."""
    bench = GuardBench(replace(COOL, plausible=(-40.0, 100.0)))
    for second in range(60):
        bench.tick(make_alert(value=300.0 + second))

    assert bench.audit_lines == ["suppressed: the value is not plausible: expected -40 to 100"]


def test_11_every_line_has_rule_labels_value_and_decision() -> None:
    """The line has them whether the act begins or is suppressed."""
    bench = GuardBench(DROP)
    full = make_alert("Full", value=3.5)
    begun, then = bench.tick(full), bench.tick(full)
    bench.apply_event(begun.begin[0], EventKind.FAILED, detail="no")
    last = bench.tick(full)

    (first,) = begun.entries
    assert first == AuditEntry(bench.now - 2000, "drop", full.labels, "page cache", "begin", "", False, 1, value=3.5)
    assert [(entry.what, entry.says, entry.value) for entry in (*then.entries, *last.entries)] == [
        ("suppressed", "cooling down since the last attempt", 3.5)
    ]


def test_11_the_audit_only_grows(tmp_path: Path) -> None:
    """A written line never changes; new lines follow it."""
    lines = [AuditEntry(number, "drop", (), "page cache", "begin", "", value=1.5) for number in range(3)]
    read: list[list[AuditEntry]] = []
    for line in lines:
        log = Journal(tmp_path, lambda: take_timestamp(1))
        log.commit(RemediationState(), [line], lambda _: None)
        log.close()
        read.append(read_audit(log.path, 9))

    assert read == [lines[:1], lines[:2], lines]


def test_12_what_cannot_be_put_back_is_flagged_and_bounded_tighter() -> None:
    """Actions that cannot be undone need a cooldown of a minute and at most twelve acts an hour; others do not."""
    often = {"cooldown": "10s", "max_per_hour": 60}
    once = {"name": "once", "match": ['alertname="Full"'], "action": "drop_caches", **often}
    again = {**once, "name": "again", "action": "governor", "parameters": {"governor": "performance"}}
    with pytest.raises(ConfigError) as refused:
        bind_remedies(parse({"remedies": [once]}, "f", {}), "f")

    assert [message.partition(": ")[2] for message in refused.value.messages] == [
        "$.remedies[0].cooldown: expected 1m or more, since drop_caches cannot be undone",
        "$.remedies[0].max_per_hour: expected 12 or less, since drop_caches cannot be undone",
    ]
    assert [one.reversible for one in bind_remedies(parse({"remedies": [again]}, "f", {}), "f")][-1]


def test_12_what_was_refused_costs_no_budget_and_what_was_done_does() -> None:
    """A plan that refuses touches nothing: it costs no attempt and no budget, but the cooldown."""
    bench = GuardBench(replace(DROP, max_attempts=1, max_per_hour=1, cooldown_ms=MINUTE))
    for _ in range(5):
        for act in bench.pass_time(2 * MINUTE, make_alert("Full")):
            bench.apply_event(act, EventKind.REFUSED)

    assert bench.state.latches == ()


@pytest.mark.parametrize("lost", [{"fresh": False}, {"lost_since_ms": 1, "fresh": False}, {"restored_ms": 1}])
def test_13_stale_data_never_acts(lost: dict[str, Any]) -> None:
    """An alert that is lost, or restored and not yet sampled again, begins nothing."""
    assert not GuardBench().tick(make_alert(**lost)).begin


def test_13_a_lost_alert_holds_its_claims() -> None:
    """A held act stays and is marked as lost, until a fresh end."""
    bench = GuardBench()
    bench.apply_event(bench.hold(bench.begin_act(make_alert())), EventKind.HELPED)

    assert not bench.tick(make_alert(fresh=False, lost_since_ms=1)).release
    assert bench.state.acts[0].is_lost
    assert bench.tick(make_alert(state=AlertState.RESOLVED)).release


def test_alerts_about_remedies_have_none() -> None:
    """No remedy is for RemedyFailed, however wide its matcher is."""
    assert not GuardBench(replace(COOL, match=(parse_matchers('dimm="A1"'),))).tick(make_alert("RemedyFailed")).begin


def make_posted_alert(name: str = "Full", **labels: str) -> Alert:
    """Returns an alert as an Alertmanager posts it: without a value, and marked with its source."""
    posted_labels = {"alertname": name, "instance": "box", "__source__": "webhook", **labels}
    return make_alert(name, labels=tuple(sorted(posted_labels.items())), value=float("nan"), expr="")


class WebhookBench(GuardBench):
    """The bench with posted alerts."""

    def tick(self, *alerts: Alert, after_ms: int = 1000) -> Decision:
        self.now += after_ms
        alert_inputs = tuple(AlertInput(alert, source="webhook") for alert in alerts)
        inputs = DecisionInputs(self.now, self.observing, self.remedies, alert_inputs, self.max_per_hour)
        return self.adopt(guards.decide(self.state, inputs))


def test_posted_alerts_are_for_remedies_that_say_so() -> None:
    """
    Without `sources: [webhook]` a posted alert begins nothing; with it alone an alert of our rules begins nothing.
    """
    from_outside = replace(DROP, sources=("webhook",))

    assert WebhookBench(DROP).tick(make_posted_alert()).begin == ()
    assert len(WebhookBench(from_outside).tick(make_posted_alert()).begin) == 1
    assert GuardBench(from_outside).tick(make_alert("Full")).begin == ()
    assert len(GuardBench(replace(DROP, sources=("local", "webhook"))).tick(make_alert("Full")).begin) == 1


def test_one_telling_begins_one_act() -> None:
    """A post does not show that its condition goes on: after one act nothing follows, and nothing latches."""
    bench = WebhookBench(replace(DROP, sources=("webhook",), cooldown_ms=MINUTE))
    act = bench.begin_act(make_posted_alert())
    bench.apply_event(act, EventKind.INTENDED, value='"dropped"')
    bench.apply_event(act, EventKind.DID, value='"dropped"')
    bench.apply_event(act, EventKind.USELESS)

    assert bench.pass_time(2 * HOUR_MS, make_posted_alert()) == []
    assert bench.state.latches == ()
    assert any("needs a new post" in line for line in bench.audit_lines)
    assert len(bench.pass_time(2 * HOUR_MS, make_posted_alert(rack="r8"))) == 1


def test_a_posted_alert_holds_until_its_end() -> None:
    """Its act is undone when Alertmanager resolves the alert, or when the post expires."""
    bench = WebhookBench(replace(COOL, sources=("webhook",)))
    bench.hold(bench.begin_act(make_posted_alert("Hot")))

    assert bench.tick(make_posted_alert("Hot")).release == ()
    assert len(bench.tick().release) == 1


def test_a_silenced_alert_begins_nothing() -> None:
    """A silenced alert begins nothing, and the audit says why; after the silence it does."""
    bench = GuardBench(DROP)
    full = make_alert("Full")
    bench.now += 1000
    quiet = DecisionInputs(bench.now, False, bench.remedies, (AlertInput(full),), 12, silenced=frozenset({full.labels}))

    assert bench.adopt(guards.decide(bench.state, quiet)).begin == ()
    assert bench.audit_lines == ["suppressed: silenced in Alertmanager"]
    assert len(bench.tick(full).begin) == 1
