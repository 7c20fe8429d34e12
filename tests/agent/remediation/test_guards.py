"""The contract of remedies, clause by clause, and that no sequence of events breaks a bound of it."""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.alerting.matchers import parse_matchers
from agent.config.loader import ConfigError, parse
from agent.config.schema import AgentConfig, RemedySettings
from agent.remediation import guards, transitions
from agent.remediation.catalog import bind_remedies
from agent.remediation.guards import HOUR_MS
from agent.remediation.journal import Journal, read_audit, take_timestamp
from agent.remediation.model import (
    HOST,
    Act,
    AlertInput,
    AuditEntry,
    Decision,
    DecisionInputs,
    Event,
    EventKind,
    Measure,
    Phase,
    RemediationState,
    Remedy,
    overlaps,
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


def test_1_observe_touches_nothing_and_never_latches() -> None:
    """In observe acts are only observed; a spent budget is a line in the audit, not a latch."""
    bench = Bench(replace(DROP, cooldown_ms=MINUTE, max_per_hour=2), observing=True)
    full = hot("Full")
    begun = []
    for _ in range(30):
        for act in bench.tick(full, after_ms=MINUTE).begin:
            bench.happens(act, EventKind.INTENDED, value='"dropped"')
            bench.happens(act, EventKind.DID, value='"dropped"')
            begun.append(act)

    assert len(begun) == 2
    assert all(act.observed for act in begun)
    assert bench.state.latches == ()
    assert any("max_per_hour" in line for line in bench.said)


def test_1_observing_is_the_default() -> None:
    """A configuration that says nothing touches nothing."""
    assert AgentConfig().remediation.mode == "observe"


def test_1_a_remedy_that_is_not_enabled_does_nothing() -> None:
    """`enabled: false` is as if it were not there."""
    assert not Bench(replace(COOL, enabled=False)).tick(hot()).begin


@pytest.mark.parametrize(
    "alert",
    [
        hot(state=AlertState.PENDING),
        hot(state=AlertState.RESOLVED),
        hot(keep_firing_since_ms=1),
        hot(value=float("nan")),
        hot(value=float("inf")),
        hot(value=500.0),
    ],
)
def test_2_evidence_must_be_sustained_and_plausible(alert: Alert) -> None:
    """Pending, resolved, kept firing, no number, or beyond the plausible range: none begins an act."""
    assert not Bench(replace(COOL, plausible=(-40.0, 100.0))).tick(alert).begin


def test_3_cooldown_counts_from_the_attempt_even_of_dry_runs() -> None:
    """A second act on the same target waits for a whole cooldown, by whichever remedy, also in observe."""
    bench = Bench(replace(DROP, max_attempts=9), observing=True)
    first = bench.acts(hot("Full"))
    bench.happens(first, EventKind.INTENDED, value="1")
    bench.happens(first, EventKind.DID, value="1")

    assert not bench.passes(9 * MINUTE, hot("Full"))
    assert bench.passes(2 * MINUTE, hot("Full"))


def test_3_cooldown_outlives_restarts_and_reboots() -> None:
    """What the journal holds is all that is needed; a clock that went back begins the cooldown again, no longer."""
    bench = Bench(DROP)
    act = bench.acts(hot("Full"))
    bench.happens(act, EventKind.INTENDED)
    bench.happens(act, EventKind.DID)
    bench.happens(act, EventKind.HELPED)
    bench.state = msgspec.json.decode(msgspec.json.encode(bench.state), type=RemediationState)
    bench.now -= 100 * HOUR_MS
    bench.state = bench.state.clamp_times(bench.now)

    assert not bench.passes(9 * MINUTE, hot("Full"))
    assert bench.passes(2 * MINUTE, hot("Full"))


def test_3_a_clock_step_shortens_no_cooldown() -> None:
    """Durations stay what they were when the wall clock is set."""
    bench = Bench(DROP)
    bench.happens(bench.acts(hot("Full")), EventKind.REFUSED)
    bench.now += 30 * HOUR_MS
    bench.state = bench.state.shift(30 * HOUR_MS)

    assert not bench.passes(9 * MINUTE, hot("Full"))


def test_4_the_hosts_budget_latches_everything() -> None:
    """After so many acts in an hour all remedies have given up, until a person resumes."""
    remedies = [
        replace(DROP, name=f"drop{n}", resource=f"cache {n}", match=(parse_matchers(f'dimm="{n}"'),)) for n in range(4)
    ]
    bench = Bench(*remedies, max_per_hour=2)
    alerts = [hot("Full", str(n)) for n in range(4)]
    begun = 0
    for _ in range(10):
        for act in bench.tick(*alerts).begin:
            begun += 1
            bench.happens(act, EventKind.INTENDED)
            bench.happens(act, EventKind.DID)
            bench.happens(act, EventKind.HELPED)

    assert begun == 2
    assert [latch.remedy for latch in bench.state.latches] == [HOST]
    assert not bench.passes(3 * HOUR_MS, *alerts)


def test_4_a_remedys_own_budget_latches_it_alone() -> None:
    """max_per_hour of one remedy; another goes on."""
    busy = replace(DROP, cooldown_ms=MINUTE, max_per_hour=2, max_attempts=9)
    bench = Bench(busy, COOL)
    for _ in range(12):
        for act in bench.tick(hot("Full"), after_ms=MINUTE).begin:
            bench.happens(act, EventKind.INTENDED)
            bench.happens(act, EventKind.DID)
            bench.happens(act, EventKind.HELPED)

    assert [(latch.remedy, latch.why) for latch in bench.state.latches] == [
        ("drop", "acted 2 times in an hour (max_per_hour)")
    ]
    assert bench.tick(hot("Full"), hot()).begin[0].remedy == "cool"


def test_4_attempts_for_one_alert_are_limited_and_reset_drops_the_backlog() -> None:
    """max_attempts, then a latch; after `resume` the alert must hold for a whole cooldown before anything is done."""
    bench = Bench(replace(DROP, max_attempts=1, max_per_hour=9))
    act = bench.acts(hot("Full"))
    bench.happens(act, EventKind.INTENDED)
    bench.happens(act, EventKind.DID)
    bench.happens(act, EventKind.HELPED)

    assert not bench.passes(HOUR_MS, hot("Full"))
    assert "max_attempts" in bench.state.latches[0].why

    bench.state = transitions.resume(bench.state, "drop", bench.now)

    assert not bench.passes(9 * MINUTE, hot("Full"))
    assert len(bench.passes(3 * MINUTE, hot("Full"))) == 1


def test_5_the_strictest_claim_wins_and_the_last_release_puts_back() -> None:
    """A second alert claims what is held; a stricter remedy tightens it; only the last one's end releases it."""
    bench = Bench(COOL, COLDER)
    act = bench.holds(bench.acts(hot()))
    bench.happens(act, EventKind.HELPED)
    other = hot(dimm="B1")

    assert not bench.tick(hot(), other).begin
    assert len(bench.state.acts[0].claims) == 2

    bench.passes(12 * MINUTE, hot(), other, hot("Hotter"))

    assert bench.state.acts[0].tightest_claim.remedy == "colder"
    assert bench.state.acts[0].is_blocking
    bench.happens(act, EventKind.HELPED)

    assert not bench.tick(other, hot("Hotter")).release
    assert not bench.tick(other).release
    assert bench.state.acts[0].tightest_claim.remedy == "cool"
    assert [released.id for released in bench.tick().release] == [act.id]


def test_5_what_overlaps_is_held_by_one_and_the_stricter_ends_the_other() -> None:
    """A part of a resource is not held beside the whole: the laxer is put back, and only then the stricter begins."""
    bench = Bench(COOL, replace(PART, cooldown_ms=MINUTE))
    whole = bench.holds(bench.acts(hot()))
    bench.happens(whole, EventKind.HELPED)
    alerts = (hot(), hot("Half"))

    assert bench.passes(2 * MINUTE, *alerts, each_ms=1000) == []
    assert [act.phase for act in bench.state.acts] == [Phase.RELEASING]
    assert "release: part is stricter, and overlaps with it" in bench.said
    bench.happens(whole, EventKind.RESTORED)
    (begun,) = bench.tick(*alerts).begin
    assert (begun.remedy, begun.resource) == ("part", "pace r1/0")
    bench.happens(bench.holds(begun), EventKind.HELPED)
    assert bench.passes(30 * MINUTE, *alerts) == []
    assert "suppressed: pace r1/0 is held by part, and pace r1 overlaps with it" in bench.said


def test_5_what_overlaps_and_was_refused_holds_nobody_up() -> None:
    """A part that its plan refuses again and again does not use up the cooldown of the whole."""
    bench = Bench(replace(PART, match=COOL.match), COOL)
    begun = []
    for _ in range(5):
        for act in bench.tick(hot(), after_ms=MINUTE).begin:
            begun.append(act.remedy)
            if act.remedy == "part":
                bench.happens(act, EventKind.REFUSED)

    assert begun[:2] == ["part", "cool"]


def test_5_what_overlaps_and_is_laxer_waits() -> None:
    """Whether it is the part or the whole."""
    bench = Bench(COLDER, replace(PART, strength=0.9))
    bench.happens(bench.holds(bench.acts(hot("Hotter"))), EventKind.HELPED)

    assert bench.passes(30 * MINUTE, hot("Hotter"), hot("Half")) == []
    assert [act.remedy for act in bench.state.acts] == ["colder"]


def tightened() -> tuple[Bench, Act]:
    """What "cool" holds, and has helped, is tightened by "colder"."""
    bench = Bench(COOL, COLDER)
    begun = bench.acts(hot())
    bench.happens(begun, EventKind.INTENDED, prior="1.0", value="0.7", before=Measure({"r1": 124.0}, {}, None))
    bench.happens(begun, EventKind.DID, value="0.7")
    bench.happens(begun, EventKind.HELPED)
    bench.passes(12 * MINUTE, hot(), hot("Hotter"))
    (act,) = bench.state.acts
    assert act.is_blocking
    return bench, act


def test_5_what_tightens_is_judged_and_not_what_it_tightened() -> None:
    """The miss is the stricter remedy's, with its alert; what was held before is held again, and verified."""
    bench, act = tightened()
    assert (act.verdict_key, act.before) == (("colder", hot("Hotter").labels), None)
    step = bench.happens(act, EventKind.USELESS)

    assert (bench.state.misses, step.release) == ({"colder": 1}, ())
    assert [(entry.remedy, entry.labels) for entry in step.entries] == [("colder", hot("Hotter").labels)]
    assert [session.remedy for session in bench.state.sessions if session.failed] == ["colder"]
    (held,) = bench.state.acts
    assert (held.phase, held.tightest_claim.remedy, held.verified, held.trial) == (Phase.HELD, "cool", True, None)


def test_5_what_is_tightened_is_measured_anew() -> None:
    """Before the stricter value is written; that of the first act would make its effect the second one's too."""
    bench, act = tightened()
    measure = Measure({"r1": 90.0}, {}, None)
    bench.happens(act, EventKind.RETUNING, value="0.4", before=measure)

    assert bench.state.acts[0].before == measure


def test_6_the_prior_value_is_journalled_before_the_write() -> None:
    """An act is only written from a phase in which the prior value is known; out of order nothing happens."""
    bench = Bench()
    act = bench.acts(hot())
    bench.happens(act, EventKind.DID, value="0.7")

    assert bench.state.acts[0].phase is Phase.STARTED
    assert "unexpected: " in bench.said

    bench.happens(act, EventKind.INTENDED, prior="1.0", value="0.7")

    assert (bench.state.acts[0].phase, bench.state.acts[0].prior) == (Phase.WRITING, "1.0")


def test_6_what_someone_else_has_changed_is_left_alone() -> None:
    """A held value that is no longer ours ends the act without a release, and nothing fights over it."""
    bench = Bench()
    act = bench.holds(bench.acts(hot()))
    step = bench.happens(act, EventKind.CHANGED, detail="it is 0.9 now")

    assert (step.release, bench.state.acts) == ((), ())
    assert not bench.passes(5 * HOUR_MS, hot())
    assert "changed by someone else" in bench.state.latches[0].why


def test_7_on_exit_and_never_outlive_the_alert() -> None:
    """Only on_resolve is put back when the alert has ended."""
    for rollback, released in (("on_resolve", 1), ("on_exit", 0), ("never", 0)):
        bench = Bench(replace(COOL, rollback=rollback))
        bench.happens(bench.holds(bench.acts(hot())), EventKind.HELPED)

        assert len(bench.tick().release) == released


@pytest.mark.parametrize(
    ("phase", "left"), [(Phase.STARTED, None), (Phase.WRITING, Phase.RELEASING), (Phase.HELD, Phase.HELD)]
)
def test_7_orphans_are_put_back_at_the_start(phase: Phase, left: Phase | None) -> None:
    """After a kill: nothing was touched, or it is put back, or its alert says whether it stays."""
    bench = Bench()
    act = bench.acts(hot())
    if phase is not Phase.STARTED:
        bench.happens(act, EventKind.INTENDED, prior="1.0", value="0.7")
    if phase is Phase.HELD:
        bench.happens(act, EventKind.DID, value="0.7")
    bench.happens(act, EventKind.INTERRUPTED)

    assert [each.phase for each in bench.state.acts] == ([left] if left else [])
    assert phase is not Phase.HELD or [one.id for one in bench.tick().release] == [act.id]


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


EMPTY = {"name": "empty", "resource": "swap", "match": DROP.match}
NAMES = [("Hot", "A1"), ("Hot", "B1"), ("Hotter", "A1"), ("Half", "A1"), ("Full", "A1")]
FINAL = (EventKind.REFUSED, EventKind.FAILED, EventKind.UNKNOWN)


class Anything(RuleBasedStateMachine):
    """Alerts, outcomes, restarts and clocks in any order; `clock` is a time that nobody can set."""

    @initialize(observing=st.booleans())
    def begin(self, observing: bool) -> None:
        often = {"cooldown_ms": 5 * MINUTE, "max_per_hour": 2, "max_attempts": 9}
        remedies = (replace(COOL, **often), replace(DROP, **often), replace(DROP, **often, **EMPTY))
        self.bench = Bench(*remedies, COLDER, PART, observing=observing, max_per_hour=3)
        self.all = self.bench.remedies
        self.cooldowns = {remedy.name: remedy.cooldown_ms for remedy in self.all}
        self.alerts: dict[tuple[str, str], Alert] = {}
        self.clock = 0
        self.begun: deque[tuple[int, Act]] = deque()
        self.uncounted: set[int] = set()
        self.resumed = -HOUR_MS

    @rule(name=st.sampled_from(NAMES), lost=st.booleans(), value=st.sampled_from([1.0, 1.0, float("nan")]))
    def fires(self, name: tuple[str, str], lost: bool, value: float) -> None:
        self.alerts[name] = hot(*name, value=value, fresh=not lost, lost_since_ms=1 if lost else None)

    @rule(name=st.sampled_from(NAMES))
    def ends(self, name: tuple[str, str]) -> None:
        self.alerts.pop(name, None)

    @rule(ms=st.sampled_from([1000, 1000, MINUTE, 5 * MINUTE, 6 * MINUTE, HOUR_MS // 2]))
    def ticks(self, ms: int) -> None:
        latched = {latch.remedy for latch in self.bench.state.latches}
        tightened = {act.id: len(act.claims) for act in self.bench.state.acts}
        step = self.bench.tick(*self.alerts.values(), after_ms=ms)
        self.clock += ms
        told = [entry for entry in step.entries if entry.what in ("begin", "tighten")]
        for entry in told:
            assert not self.bench.killed
            assert not self.bench.halted
            assert not self.bench.state.pauses
            alert = next(alert for alert in self.alerts.values() if alert.labels == entry.labels)
            assert alert.fresh
            assert alert.value == alert.value
            assert self.bench.observing or not latched & {entry.remedy, HOST}
            assert not [each for each in self.bench.state.acts if each.is_blocking and each.id != entry.act]
            act = self.bench.state.find_act(entry.act)
            assert act is not None
            self._cooled(act, entry.remedy)
            self.begun.append((self.clock, replace(act, remedy=entry.remedy)))
        assert len(told) <= 1 or self.bench.observing
        assert all(act.phase is Phase.STARTED for act in step.begin)
        assert tightened.keys() or not any(entry.what == "tighten" for entry in told)

    def _cooled(self, act: Act, remedy: str) -> None:
        before = [at for at, one in self.begun if one.resource == act.resource]
        before += [
            at for at, one in self.begun if overlaps(one.resource, act.resource) and one.id not in self.uncounted
        ]
        assert not before or self.clock - max(before) >= self.cooldowns[remedy]

    @rule(pick=st.integers(0, 3), kind=st.sampled_from(list(EventKind)), value=st.sampled_from(["0.7", "0.4"]))
    def happens(self, pick: int, kind: EventKind, value: str) -> None:
        acts = self.bench.state.acts
        if not acts:
            return
        act = acts[pick % len(acts)]
        if act.phase in (Phase.STARTED, Phase.WRITING) and kind is EventKind.REFUSED:
            self.uncounted.add(act.id)
        self.bench.happens(act, kind, prior="1.0", value=value)

    @rule()
    def goes_well(self) -> None:
        for act in self.bench.state.acts:
            steps = {
                Phase.STARTED: EventKind.INTENDED,
                Phase.WRITING: EventKind.DID,
                Phase.HELD: EventKind.HELPED,
                Phase.RELEASING: EventKind.RESTORED,
            }
            self.bench.happens(act, steps[act.phase], prior="1.0", value="0.7")

    @rule(back_ms=st.sampled_from([0, 0, HOUR_MS, 50 * HOUR_MS]))
    def restarts(self, back_ms: int) -> None:
        self.bench.now -= back_ms
        stored = json.dumps(msgspec.json.decode(msgspec.json.encode(self.bench.state)))
        self.bench.state = msgspec.json.decode(stored, type=RemediationState).clamp_times(self.bench.now)
        for act in self.bench.state.acts:
            self.bench.happens(act, EventKind.INTERRUPTED)
        assert all(act.phase in (Phase.HELD, Phase.RELEASING) for act in self.bench.state.acts)

    @rule(delta_ms=st.sampled_from([-50 * HOUR_MS, -HOUR_MS, HOUR_MS, 50 * HOUR_MS]))
    def clock_is_set(self, delta_ms: int) -> None:
        self.bench.now += delta_ms
        self.bench.state = self.bench.state.shift(delta_ms)

    @rule(name=st.sampled_from([None, "cool", "drop", HOST, "operator"]))
    def is_resumed(self, name: str | None) -> None:
        before = self.bench.state
        self.bench.state = transitions.resume(before, name, self.bench.now)
        if self.bench.state.latches != before.latches:
            self.resumed = self.clock

    @rule(how=st.sampled_from(["paused", "killed", "halted"]), ms=st.sampled_from([1000, 6 * MINUTE]))
    def is_stopped(self, how: str, ms: int) -> None:
        """For one tick; a pause of another name than the operator's is a pause too."""
        self.bench.killed, self.bench.halted = how == "killed", "disk full" if how == "halted" else ""
        self.bench.state = transitions.pause(self.bench.state, "maintenance") if how == "paused" else self.bench.state
        self.ticks(ms)
        self.bench.killed, self.bench.halted = False, ""
        self.bench.state = replace(self.bench.state, pauses=())

    @rule(names=st.sets(st.sampled_from(["cool", "colder", "drop", "empty", "part"])), name=st.sampled_from(NAMES))
    def configuration_is_reloaded(self, names: set[str], name: tuple[str, str]) -> None:
        """Some remedies leave it, others come back, while an act is not verified; what has left is not waited for."""
        self.alerts[name] = hot(*name)
        self.ticks(6 * MINUTE)
        for act in self.bench.state.acts:
            self.bench.happens(act, EventKind.INTENDED, prior="1.0", value="0.7")
            self.bench.happens(act, EventKind.DID, value="0.7")
        self.bench.remedies = tuple(each for each in self.all if each.name in names)
        self.bench.judges(*self.alerts.values())
        waited_for = [act for act in self.bench.state.acts if act.is_blocking and act.phase is Phase.HELD]
        assert all(act.verdict_key[0] in names for act in waited_for)

    @rule(observing=st.sampled_from([False, False, True]))
    def mode_is_set(self, observing: bool) -> None:
        self.bench.observing = observing

    @rule(
        wanted=st.sets(st.sampled_from(NAMES), min_size=1),
        verdicts=st.lists(
            st.sampled_from([EventKind.HELPED, EventKind.HELPED, EventKind.USELESS, None]), min_size=4, max_size=12
        ),
    )
    def a_busy_while(self, wanted: set[tuple[str, str]], verdicts: list[EventKind | None]) -> None:
        """Alerts that come and go every six minutes, with acts that end one way or another, or do not end."""
        for verdict in verdicts:
            self.alerts = {name: hot(*name) for name in wanted}
            self.ticks(6 * MINUTE)
            for act in self.bench.state.acts:
                if verdict is not None:
                    self.bench.happens(act, EventKind.INTENDED, prior="1.0", value="0.7")
                    self.bench.happens(act, EventKind.DID, value="0.7")
                    self.bench.happens(act, verdict)
            if len(verdicts) % 2:
                self.alerts = {}
                self.ticks(1000)
                self.goes_well()

    @invariant()
    def one_act_at_a_time(self) -> None:
        assert sum(act.is_blocking for act in self.bench.state.acts) <= 1

    @invariant()
    def one_act_on_a_resource(self) -> None:
        for one, other in itertools.combinations(self.bench.state.acts, 2):
            assert not overlaps(one.resource, other.resource)

    @invariant()
    def what_may_be_written_has_its_prior(self) -> None:
        for act in self.bench.state.acts:
            assert act.phase is Phase.STARTED or act.prior is not None

    @invariant()
    def budgets_hold(self) -> None:
        """In any hour since the last resume."""
        while self.begun and self.begun[0][0] <= self.clock - HOUR_MS and len(self.begun) > 50:
            self.begun.popleft()
        since = max(self.clock - HOUR_MS, self.resumed)
        real = [one for at, one in self.begun if at > since and not one.observed and one.id not in self.uncounted]
        assert len(real) <= self.bench.max_per_hour
        for remedy in self.all:
            assert sum(one.remedy == remedy.name for one in real) <= remedy.max_per_hour

    @invariant()
    def nothing_is_held_without_a_claim(self) -> None:
        for act in self.bench.state.acts:
            assert act.phase is not Phase.HELD or act.claims

    @invariant()
    def what_is_tried_is_not_yet_known(self) -> None:
        for act in self.bench.state.acts:
            assert act.trial is None or not act.verified

    @invariant()
    def one_latch_a_remedy(self) -> None:
        names = [latch.remedy for latch in self.bench.state.latches]
        assert len(names) == len(set(names))


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


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
