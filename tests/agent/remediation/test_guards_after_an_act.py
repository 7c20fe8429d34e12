"""The contract of remedies, clauses 8 to 13: verdicts, pauses, unknown outcomes, audit, stale data. Posted alerts too."""

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
from tests.agent.remediation.guard_bench import COOL, DROP, MINUTE, Bench, hot


def test_8_the_evidence_window_is_armed_again_after_an_act() -> None:
    """The alert must hold for a whole cooldown on samples newer than the act; a rule's own window comes on top."""
    bench = Bench(replace(DROP, max_attempts=9), window_ms=5 * MINUTE)
    act = bench.acts(hot("Full"))
    bench.happens(act, EventKind.INTENDED)
    bench.happens(act, EventKind.DID)
    bench.happens(act, EventKind.HELPED)

    assert not bench.passes(14 * MINUTE, hot("Full"))
    assert bench.passes(2 * MINUTE, hot("Full"))


def test_8_an_alert_that_blinks_begins_its_evidence_anew() -> None:
    """Nine minutes, a gap, nine minutes: no act, though the cooldown is over."""
    bench = Bench(DROP)
    bench.happens(bench.acts(hot("Full")), EventKind.REFUSED)

    assert not bench.passes(9 * MINUTE, hot("Full"))
    bench.tick()
    assert not bench.passes(9 * MINUTE, hot("Full"))


def test_8_one_act_at_a_time_until_it_is_known_whether_it_helped() -> None:
    """While an act is not verified no other remedy of the host acts."""
    bench = Bench(COOL, DROP)
    act = bench.holds(bench.acts(hot()))

    assert not bench.passes(HOUR_MS, hot(), hot("Full"))
    bench.happens(act, EventKind.HELPED)
    assert [one.remedy for one in bench.tick(hot(), hot("Full")).begin] == ["drop"]


@pytest.mark.parametrize("gone", [DROP, COOL])
def test_8_what_has_left_the_configuration_keeps_nobody_back(gone: Remedy) -> None:
    """An act of a remedy that was removed meanwhile is not judged; nothing waits for it, whoever else claims it."""
    other = replace(gone, name="other", match=(parse_matchers('alertname="Other"'),))
    third = replace(DROP, name="third", resource="swap", match=(parse_matchers('alertname="Third"'),))
    bench, alert = Bench(gone, other, third), hot("Full" if gone is DROP else "Hot")
    bench.holds(bench.acts(alert))
    bench.tick(alert, hot("Other"))
    bench.remedies = (other, third)
    bench.judges(alert)

    assert [act.remedy for act in bench.tick(hot("Other"), hot("Third")).begin] == ["third"]
    assert bench.state.effects == {gone.name: f"{gone.name} has left the configuration; not judged"}


def test_8_what_is_being_put_back_keeps_nobody_back() -> None:
    """That may take for ever, where the engine has gone; the resource alone waits for it."""
    bench = Bench(COOL, DROP)
    act = bench.holds(bench.acts(hot()))
    bench.tick()
    bench.happens(act, EventKind.UNKNOWN, detail="no end within 120 s")
    bench.happens(act, EventKind.FAILED, detail="nobody is there")

    assert [each.phase for each in bench.state.acts] == [Phase.RELEASING]
    assert "unexpected: no end within 120 s" not in bench.said
    assert [one.remedy for one in bench.passes(HOUR_MS, hot(), hot("Full"))] == ["drop"]


def test_8_a_remedy_that_does_not_help_switches_itself_off() -> None:
    """Three acts in a row that did not help: given up, and what was held is put back each time."""
    bench = Bench(replace(COOL, max_attempts=99, max_per_hour=60))
    begun = 0
    for _ in range(300):
        for act in bench.tick(hot(), after_ms=MINUTE).begin:
            begun += 1
            held = bench.holds(act)
            assert bench.happens(held, EventKind.USELESS).release
            bench.happens(held, EventKind.RESTORED)

    assert begun == transitions.MAX_MISSES
    assert "did not help 3 times" in bench.state.latches[0].why


def test_9_a_pause_begins_nothing_and_the_kill_switch_puts_back() -> None:
    """A named pause leaves what is held; the kill-switch file releases it at once."""
    bench = Bench(COOL, DROP)
    act = bench.holds(bench.acts(hot()))
    bench.happens(act, EventKind.HELPED)
    bench.state = transitions.pause(bench.state, "maintenance")

    assert not bench.tick(hot(), hot("Full")).begin
    assert bench.state.acts
    assert "suppressed: paused: maintenance" in bench.said

    bench.killed = True

    assert [one.id for one in bench.tick(hot(), hot("Full")).release] == [act.id]


def test_10_an_ambiguous_outcome_is_not_tried_again() -> None:
    """Nobody knows whether it was done: latched, whatever the cooldown."""
    bench = Bench(DROP)
    act = bench.acts(hot("Full"))
    bench.happens(act, EventKind.INTENDED)
    bench.happens(act, EventKind.UNKNOWN, detail="no answer")

    assert not bench.passes(5 * HOUR_MS, hot("Full"))
    assert "nobody knows" in bench.state.latches[0].why


def test_10_a_journal_that_cannot_be_used_stops_all_acting() -> None:
    """Halted: nothing begins, and the reason is in the audit; what is held may still be put back."""
    bench = Bench(COOL, DROP)
    bench.happens(bench.holds(bench.acts(hot())), EventKind.HELPED)
    bench.halted = "disk full"

    assert not bench.tick(hot(), hot("Full")).begin
    assert "suppressed: disk full" in bench.said
    assert bench.tick(hot("Full")).release


def test_11_suppressions_are_told_once_for_each_reason() -> None:
    """The audit has every reason against acting, and not once a second."""
    bench = Bench(DROP)
    bench.happens(bench.acts(hot("Full")), EventKind.REFUSED, detail="only 1 % would be freed")
    bench.passes(5 * MINUTE, hot("Full"), each_ms=1000)

    assert bench.said == [
        "begin: ",
        "refused: only 1 % would be freed",
        "suppressed: cooling down since the last attempt",
    ]


def test_11_a_value_that_drifts_is_told_once() -> None:
    """The number stands beside the reason: in it, an implausible sensor would write a line a second."""
    bench = Bench(replace(COOL, plausible=(-40.0, 100.0)))
    for second in range(60):
        bench.tick(hot(value=300.0 + second))

    assert bench.said == ["suppressed: the value is not plausible: expected -40 to 100"]


def test_11_every_line_has_rule_labels_value_and_decision() -> None:
    """Of what is begun and of what is suppressed alike."""
    bench = Bench(DROP)
    full = hot("Full", value=3.5)
    begun, then = bench.tick(full), bench.tick(full)
    bench.happens(begun.begin[0], EventKind.FAILED, detail="no")
    last = bench.tick(full)

    (first,) = begun.entries
    assert first == AuditEntry(bench.now - 2000, "drop", full.labels, "page cache", "begin", "", False, 1, value=3.5)
    assert [(entry.what, entry.says, entry.value) for entry in (*then.entries, *last.entries)] == [
        ("suppressed", "cooling down since the last attempt", 3.5)
    ]


def test_11_the_audit_only_grows(tmp_path: Path) -> None:
    """A line that is written is never changed; what is added comes after it."""
    lines = [AuditEntry(number, "drop", (), "page cache", "begin", "", value=1.5) for number in range(3)]
    read: list[list[AuditEntry]] = []
    for line in lines:
        log = Journal(tmp_path, lambda: take_timestamp(1))
        log.commit(RemediationState(), [line], lambda _: None)
        log.close()
        read.append(read_audit(log.path, 9))

    assert read == [lines[:1], lines[:2], lines]


def test_12_what_cannot_be_put_back_is_flagged_and_bounded_tighter() -> None:
    """A cooldown of a minute and twelve acts an hour; what can be put back may come sooner and more often."""
    often = {"cooldown": "10s", "max_per_hour": 60}
    once = {"name": "once", "match": ['alertname="Full"'], "action": "drop_caches", **often}
    again = {**once, "name": "again", "action": "governor", "parameters": {"governor": "performance"}}
    with pytest.raises(ConfigError) as refused:
        bind_remedies(parse({"remedies": [once]}, "f", {}), "f")

    assert [message.partition(": ")[2] for message in refused.value.messages] == [
        "$.remedies[0].cooldown: expected 1m or more, since what drop_caches does cannot be put back",
        "$.remedies[0].max_per_hour: expected 12 or less, since what drop_caches does cannot be put back",
    ]
    assert [one.reversible for one in bind_remedies(parse({"remedies": [again]}, "f", {}), "f")][-1]


def test_12_what_was_refused_costs_no_budget_and_what_was_done_does() -> None:
    """A plan that refuses touches nothing: attempts and budgets are given back, the cooldown is not."""
    bench = Bench(replace(DROP, max_attempts=1, max_per_hour=1, cooldown_ms=MINUTE))
    for _ in range(5):
        for act in bench.passes(2 * MINUTE, hot("Full")):
            bench.happens(act, EventKind.REFUSED)

    assert bench.state.latches == ()


@pytest.mark.parametrize("lost", [{"fresh": False}, {"lost_since_ms": 1, "fresh": False}, {"restored_ms": 1}])
def test_13_stale_data_never_acts(lost: dict[str, Any]) -> None:
    """An alert that is lost, or restored and not yet seen again, begins nothing."""
    assert not Bench().tick(hot(**lost)).begin


def test_13_a_lost_alert_holds_its_claims() -> None:
    """What is held stays and knows that it is lost, until a fresh end."""
    bench = Bench()
    bench.happens(bench.holds(bench.acts(hot())), EventKind.HELPED)

    assert not bench.tick(hot(fresh=False, lost_since_ms=1)).release
    assert bench.state.acts[0].is_lost
    assert bench.tick(hot(state=AlertState.RESOLVED)).release


def test_alerts_about_remedies_have_none() -> None:
    """However wide a matcher is, RemedyFailed is not remedied."""
    assert not Bench(replace(COOL, match=(parse_matchers('dimm="A1"'),))).tick(hot("RemedyFailed")).begin


def posted(name: str = "Full", **labels: str) -> Alert:
    """An alert as an Alertmanager posts it: no value, and the mark of where it is from."""
    told = {"alertname": name, "instance": "box", "__source__": "webhook", **labels}
    return hot(name, labels=tuple(sorted(told.items())), value=float("nan"), expr="")


class Webhooked(Bench):
    """The same, with alerts that were posted."""

    def tick(self, *alerts: Alert, after_ms: int = 1000) -> Decision:
        self.now += after_ms
        seen = tuple(AlertInput(alert, source="webhook") for alert in alerts)
        world = DecisionInputs(self.now, self.observing, self.remedies, seen, self.max_per_hour)
        return self._take(guards.decide(self.state, world))


def test_posted_alerts_are_for_remedies_that_say_so() -> None:
    """Without `sources: [webhook]` nothing is begun, and with it alone nothing for an alert of our own."""
    from_outside = replace(DROP, sources=("webhook",))

    assert Webhooked(DROP).tick(posted()).begin == ()
    assert len(Webhooked(from_outside).tick(posted()).begin) == 1
    assert Bench(from_outside).tick(hot("Full")).begin == ()
    assert len(Bench(replace(DROP, sources=("local", "webhook"))).tick(hot("Full")).begin) == 1


def test_one_telling_begins_one_act() -> None:
    """A posted alert is no evidence that its condition goes on: after one act nothing follows, and nothing latches."""
    bench = Webhooked(replace(DROP, sources=("webhook",), cooldown_ms=MINUTE))
    act = bench.acts(posted())
    bench.happens(act, EventKind.INTENDED, value='"dropped"')
    bench.happens(act, EventKind.DID, value='"dropped"')
    bench.happens(act, EventKind.USELESS)

    assert bench.passes(2 * HOUR_MS, posted()) == []
    assert bench.state.latches == ()
    assert any("told anew" in said for said in bench.said)
    assert len(bench.passes(2 * HOUR_MS, posted(rack="r8"))) == 1


def test_a_posted_alert_holds_until_its_end() -> None:
    """What is held for it is put back when it is told to be over, or has expired."""
    bench = Webhooked(replace(COOL, sources=("webhook",)))
    bench.holds(bench.acts(posted("Hot")))

    assert bench.tick(posted("Hot")).release == ()
    assert len(bench.tick().release) == 1


def test_a_silenced_alert_begins_nothing() -> None:
    """What Alertmanager has silenced is not acted upon, and the audit says why; once it speaks it is."""
    bench = Bench(DROP)
    full = hot("Full")
    bench.now += 1000
    quiet = DecisionInputs(bench.now, False, bench.remedies, (AlertInput(full),), 12, silenced=frozenset({full.labels}))

    assert bench._take(guards.decide(bench.state, quiet)).begin == ()
    assert bench.said == ["suppressed: silenced in Alertmanager"]
    assert len(bench.tick(full).begin) == 1
