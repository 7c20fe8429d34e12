"""The contract of remedies, clauses 1 to 7: observing, evidence, cooldowns, budgets, claims, prior values, undoing."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from agent.alerting.matchers import parse_matchers
from agent.config.schema import AgentConfig
from agent.remediation import transitions
from agent.remediation.guards import HOUR_MS
from agent.remediation.model import (
    HOST,
    Act,
    EventKind,
    Measure,
    Phase,
    RemediationState,
)
from rules.alerts import Alert, AlertState
from tests.agent.remediation.guard_bench import COLDER, COOL, DROP, MINUTE, PART, GuardBench, make_alert


def test_1_observe_touches_nothing_and_never_latches() -> None:
    """In observe acts are only observed; a spent budget is a line in the audit, not a latch."""
    bench = GuardBench(replace(DROP, cooldown_ms=MINUTE, max_per_hour=2), observing=True)
    full = make_alert("Full")
    begun = []
    for _ in range(30):
        for act in bench.tick(full, after_ms=MINUTE).begin:
            bench.apply_event(act, EventKind.INTENDED, value='"dropped"')
            bench.apply_event(act, EventKind.DID, value='"dropped"')
            begun.append(act)

    assert len(begun) == 2
    assert all(act.observed for act in begun)
    assert bench.state.latches == ()
    assert any("max_per_hour" in line for line in bench.audit_lines)


def test_1_observing_is_the_default() -> None:
    """The default mode is observe."""
    assert AgentConfig().remediation.mode == "observe"


def test_1_a_remedy_that_is_not_enabled_does_nothing() -> None:
    """A remedy with `enabled: false` begins nothing."""
    assert not GuardBench(replace(COOL, enabled=False)).tick(make_alert()).begin


@pytest.mark.parametrize(
    "alert",
    [
        make_alert(state=AlertState.PENDING),
        make_alert(state=AlertState.RESOLVED),
        make_alert(keep_firing_since_ms=1),
        make_alert(value=float("nan")),
        make_alert(value=float("inf")),
        make_alert(value=500.0),
    ],
)
def test_2_evidence_must_be_sustained_and_plausible(alert: Alert) -> None:
    """No act begins for an alert that is pending, resolved, kept firing, or has no plausible value."""
    assert not GuardBench(replace(COOL, plausible=(-40.0, 100.0))).tick(alert).begin


def test_3_cooldown_counts_from_the_attempt_even_of_dry_runs() -> None:
    """A second act on the resource waits for a whole cooldown, whichever remedy acts, also in observe."""
    bench = GuardBench(replace(DROP, max_attempts=9), observing=True)
    first = bench.begin_act(make_alert("Full"))
    bench.apply_event(first, EventKind.INTENDED, value="1")
    bench.apply_event(first, EventKind.DID, value="1")

    assert not bench.pass_time(9 * MINUTE, make_alert("Full"))
    assert bench.pass_time(2 * MINUTE, make_alert("Full"))


def test_3_cooldown_outlives_restarts_and_reboots() -> None:
    """The journal alone restores the cooldown; a clock that went back begins it again, and makes it no longer."""
    bench = GuardBench(DROP)
    act = bench.begin_act(make_alert("Full"))
    bench.apply_event(act, EventKind.INTENDED)
    bench.apply_event(act, EventKind.DID)
    bench.apply_event(act, EventKind.HELPED)
    bench.state = msgspec.json.decode(msgspec.json.encode(bench.state), type=RemediationState)
    bench.now -= 100 * HOUR_MS
    bench.state = bench.state.clamp_times(bench.now)

    assert not bench.pass_time(9 * MINUTE, make_alert("Full"))
    assert bench.pass_time(2 * MINUTE, make_alert("Full"))


def test_3_a_clock_step_shortens_no_cooldown() -> None:
    """Durations stay the same when the wall clock is set."""
    bench = GuardBench(DROP)
    bench.apply_event(bench.begin_act(make_alert("Full")), EventKind.REFUSED)
    bench.now += 30 * HOUR_MS
    bench.state = bench.state.shift(30 * HOUR_MS)

    assert not bench.pass_time(9 * MINUTE, make_alert("Full"))


def test_4_the_hosts_budget_latches_everything() -> None:
    """After the host's budget of acts in an hour all remedies give up, until a person resumes them."""
    remedies = [
        replace(DROP, name=f"drop{n}", resource=f"cache {n}", match=(parse_matchers(f'dimm="{n}"'),)) for n in range(4)
    ]
    bench = GuardBench(*remedies, max_per_hour=2)
    alerts = [make_alert("Full", str(n)) for n in range(4)]
    begun = 0
    for _ in range(10):
        for act in bench.tick(*alerts).begin:
            begun += 1
            bench.apply_event(act, EventKind.INTENDED)
            bench.apply_event(act, EventKind.DID)
            bench.apply_event(act, EventKind.HELPED)

    assert begun == 2
    assert [latch.remedy for latch in bench.state.latches] == [HOST]
    assert not bench.pass_time(3 * HOUR_MS, *alerts)


def test_4_a_remedys_own_budget_latches_it_alone() -> None:
    """max_per_hour of one remedy does not stop another."""
    busy = replace(DROP, cooldown_ms=MINUTE, max_per_hour=2, max_attempts=9)
    bench = GuardBench(busy, COOL)
    for _ in range(12):
        for act in bench.tick(make_alert("Full"), after_ms=MINUTE).begin:
            bench.apply_event(act, EventKind.INTENDED)
            bench.apply_event(act, EventKind.DID)
            bench.apply_event(act, EventKind.HELPED)

    assert [(latch.remedy, latch.why) for latch in bench.state.latches] == [
        ("drop", "acted 2 times in an hour (max_per_hour)")
    ]
    assert bench.tick(make_alert("Full"), make_alert()).begin[0].remedy == "cool"


def test_4_attempts_for_one_alert_are_limited_and_reset_drops_the_backlog() -> None:
    """max_attempts sets a latch; after `resume` the alert must hold for a whole cooldown before the next act."""
    bench = GuardBench(replace(DROP, max_attempts=1, max_per_hour=9))
    act = bench.begin_act(make_alert("Full"))
    bench.apply_event(act, EventKind.INTENDED)
    bench.apply_event(act, EventKind.DID)
    bench.apply_event(act, EventKind.HELPED)

    assert not bench.pass_time(HOUR_MS, make_alert("Full"))
    assert "max_attempts" in bench.state.latches[0].why

    bench.state = transitions.resume(bench.state, "drop", bench.now)

    assert not bench.pass_time(9 * MINUTE, make_alert("Full"))
    assert len(bench.pass_time(3 * MINUTE, make_alert("Full"))) == 1


def test_5_the_strictest_claim_wins_and_the_last_release_puts_back() -> None:
    """A second alert claims the held act; a stricter remedy tightens it; only the end of the last claim releases it."""
    bench = GuardBench(COOL, COLDER)
    act = bench.hold(bench.begin_act(make_alert()))
    bench.apply_event(act, EventKind.HELPED)
    other = make_alert(dimm="B1")

    assert not bench.tick(make_alert(), other).begin
    assert len(bench.state.acts[0].claims) == 2

    bench.pass_time(12 * MINUTE, make_alert(), other, make_alert("Hotter"))

    assert bench.state.acts[0].tightest_claim.remedy == "colder"
    assert bench.state.acts[0].is_blocking
    bench.apply_event(act, EventKind.HELPED)

    assert not bench.tick(other, make_alert("Hotter")).release
    assert not bench.tick(other).release
    assert bench.state.acts[0].tightest_claim.remedy == "cool"
    assert [released.id for released in bench.tick().release] == [act.id]


def test_5_what_overlaps_is_held_by_one_and_the_stricter_ends_the_other() -> None:
    """A part of a resource is not held beside the whole: the laxer act is undone before the stricter one begins."""
    bench = GuardBench(COOL, replace(PART, cooldown_ms=MINUTE))
    whole_act = bench.hold(bench.begin_act(make_alert()))
    bench.apply_event(whole_act, EventKind.HELPED)
    alerts = (make_alert(), make_alert("Half"))

    assert bench.pass_time(2 * MINUTE, *alerts, each_ms=1000) == []
    assert [act.phase for act in bench.state.acts] == [Phase.RELEASING]
    assert "release: part is stricter, and overlaps with it" in bench.audit_lines
    bench.apply_event(whole_act, EventKind.RESTORED)
    (begun,) = bench.tick(*alerts).begin
    assert (begun.remedy, begun.resource) == ("part", "pace r1/0")
    bench.apply_event(bench.hold(begun), EventKind.HELPED)
    assert bench.pass_time(30 * MINUTE, *alerts) == []
    assert "suppressed: pace r1/0 is held by part, and pace r1 overlaps with it" in bench.audit_lines


def test_5_what_overlaps_and_was_refused_holds_nobody_up() -> None:
    """A part that its plan refuses again and again does not use up the cooldown of the whole."""
    bench = GuardBench(replace(PART, match=COOL.match), COOL)
    begun = []
    for _ in range(5):
        for act in bench.tick(make_alert(), after_ms=MINUTE).begin:
            begun.append(act.remedy)
            if act.remedy == "part":
                bench.apply_event(act, EventKind.REFUSED)

    assert begun[:2] == ["part", "cool"]


def test_5_what_overlaps_and_is_laxer_waits() -> None:
    """The laxer remedy waits, whether it is for the part or for the whole."""
    bench = GuardBench(COLDER, replace(PART, strength=0.9))
    bench.apply_event(bench.hold(bench.begin_act(make_alert("Hotter"))), EventKind.HELPED)

    assert bench.pass_time(30 * MINUTE, make_alert("Hotter"), make_alert("Half")) == []
    assert [act.remedy for act in bench.state.acts] == ["colder"]


def tighten_pace() -> tuple[GuardBench, Act]:
    """Returns a bench on which "colder" tightens an act of "cool" that has helped."""
    bench = GuardBench(COOL, COLDER)
    begun = bench.begin_act(make_alert())
    bench.apply_event(begun, EventKind.INTENDED, prior="1.0", value="0.7", before=Measure({"r1": 124.0}, {}, None))
    bench.apply_event(begun, EventKind.DID, value="0.7")
    bench.apply_event(begun, EventKind.HELPED)
    bench.pass_time(12 * MINUTE, make_alert(), make_alert("Hotter"))
    (act,) = bench.state.acts
    assert act.is_blocking
    return bench, act


def test_5_what_tightens_is_judged_and_not_what_it_tightened() -> None:
    """The miss is the stricter remedy's, with its alert; the former value is held again, and counts as verified."""
    bench, act = tighten_pace()
    assert (act.verdict_key, act.before) == (("colder", make_alert("Hotter").labels), None)
    decision = bench.apply_event(act, EventKind.USELESS)

    assert (bench.state.misses, decision.release) == ({"colder": 1}, ())
    assert [(entry.remedy, entry.labels) for entry in decision.entries] == [("colder", make_alert("Hotter").labels)]
    assert [session.remedy for session in bench.state.episodes if session.failed] == ["colder"]
    (held_act,) = bench.state.acts
    assert (held_act.phase, held_act.tightest_claim.remedy, held_act.verified, held_act.pending_tightening) == (
        Phase.HELD,
        "cool",
        True,
        None,
    )


def test_5_what_is_tightened_is_measured_anew() -> None:
    """The measurement precedes the stricter value; that of the first act would count its effect twice."""
    bench, act = tighten_pace()
    measure = Measure({"r1": 90.0}, {}, None)
    bench.apply_event(act, EventKind.RETUNING, value="0.4", before=measure)

    assert bench.state.acts[0].before == measure


def test_6_the_prior_value_is_journalled_before_the_write() -> None:
    """A write needs a phase with a known prior value; an event out of order changes nothing."""
    bench = GuardBench()
    act = bench.begin_act(make_alert())
    bench.apply_event(act, EventKind.DID, value="0.7")

    assert bench.state.acts[0].phase is Phase.STARTED
    assert "unexpected: " in bench.audit_lines

    bench.apply_event(act, EventKind.INTENDED, prior="1.0", value="0.7")

    assert (bench.state.acts[0].phase, bench.state.acts[0].prior) == (Phase.WRITING, "1.0")


def test_6_what_someone_else_has_changed_is_left_alone() -> None:
    """A held value that someone else changed ends the act without a release, and nobody fights over it."""
    bench = GuardBench()
    act = bench.hold(bench.begin_act(make_alert()))
    decision = bench.apply_event(act, EventKind.CHANGED, detail="it is 0.9 now")

    assert (decision.release, bench.state.acts) == ((), ())
    assert not bench.pass_time(5 * HOUR_MS, make_alert())
    assert "changed by someone else" in bench.state.latches[0].why


def test_7_on_exit_and_never_outlive_the_alert() -> None:
    """Only on_resolve is undone when the alert has ended."""
    for rollback, released in (("on_resolve", 1), ("on_exit", 0), ("never", 0)):
        bench = GuardBench(replace(COOL, rollback=rollback))
        bench.apply_event(bench.hold(bench.begin_act(make_alert())), EventKind.HELPED)

        assert len(bench.tick().release) == released


@pytest.mark.parametrize(
    ("phase", "phase_after"), [(Phase.STARTED, None), (Phase.WRITING, Phase.RELEASING), (Phase.HELD, Phase.HELD)]
)
def test_7_orphans_are_put_back_at_the_start(phase: Phase, phase_after: Phase | None) -> None:
    """
    After a kill an act is forgotten if nothing was touched, undone if it may have been written, else left to its alert.
    """
    bench = GuardBench()
    act = bench.begin_act(make_alert())
    if phase is not Phase.STARTED:
        bench.apply_event(act, EventKind.INTENDED, prior="1.0", value="0.7")
    if phase is Phase.HELD:
        bench.apply_event(act, EventKind.DID, value="0.7")
    bench.apply_event(act, EventKind.INTERRUPTED)

    assert [each.phase for each in bench.state.acts] == ([phase_after] if phase_after else [])
    assert phase is not Phase.HELD or [one.id for one in bench.tick().release] == [act.id]
