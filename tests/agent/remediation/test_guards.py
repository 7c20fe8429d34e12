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
from tests.agent.remediation.guard_bench import COLDER, COOL, DROP, MINUTE, PART, Bench, hot


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
