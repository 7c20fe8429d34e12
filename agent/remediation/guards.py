"""
Whether to act: the table GUARDS. What becomes of an act is agent/remediation/transitions.py's, who holds what
agent/remediation/claims.py's. All three are pure; the time is passed in.

The contract is older than this file: each of its clauses stands in tests/agent/remediation/test_guards.py by name, with
what it cost those who lacked it. In short: evidence that is there and holds; a cooldown that counts from the attempt,
dry runs too; one act at a time until it is known whether it helped; a budget, and after it a latch that only people
lift; claims of several alerts on one resource, of which the strictest wins and the last one's end puts back; what is
not known is not tried again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.remediation import claims
from agent.remediation.model import (
    HOST,
    Act,
    Attempt,
    Claim,
    Entry,
    Latch,
    Phase,
    Remedy,
    Seen,
    Session,
    State,
    Step,
    World,
    overlap,
)
from agent.remediation.transitions import entry_of, with_session
from rules.alerts import AlertState

HOUR_MS = 3_600_000
OWN_ALERTS = frozenset({"RemedyRunning", "RemedyFailed", "RemedyGaveUp"})
"""Alerts about remedies have none."""


def matches(remedy: Remedy, seen: Seen) -> bool:
    """Whether a remedy is for an alert; for a posted one only where its labels are what they must be."""
    labels = dict(seen.alert.labels)
    if seen.source not in remedy.sources or seen.alert.name in OWN_ALERTS:
        return False
    trusted = remedy.trusted if seen.source == "webhook" else ()
    any_of = (all(matcher.test(labels.get(matcher.label, "")) for matcher in each) for each in remedy.match)
    return all(matcher.test(labels.get(matcher.label, "")) for matcher in trusted) and any(any_of)


def evidence_missing(remedy: Remedy, seen: Seen) -> str:
    """Why what is known of an alert is not enough to act upon; empty where it is."""
    alert = seen.alert
    least, most = remedy.plausible or (-math.inf, math.inf)
    if not alert.fresh or alert.lost_since_ms is not None:
        return "the evidence is lost: a source of the rule is silent"
    if alert.restored_ms is not None:
        return "the evidence since the restart is not whole yet"
    if alert.keep_firing_since_ms is not None:
        return "the condition is over; the alert is only kept firing"
    if seen.source == "local" and not (math.isfinite(alert.value) and least <= alert.value <= most):
        # Without the value, which stands beside it in the audit: a sensor that drifts would be told once a second.
        return f"the value is not plausible: expected {least:g} to {most:g}"
    return ""


@dataclass(frozen=True, slots=True)
class Case:
    """A remedy that may be wanted for an alert now."""

    state: State
    world: World
    remedy: Remedy
    seen: Seen
    session: Session

    @property
    def last(self) -> Attempt | None:
        """
        The newest attempt on the resource, by whichever remedy; or one on what overlaps with it.

        Of the latter only those that were not refused: reclaim, where the kernel has none, holds no drop_caches up.
        """
        mine = self.remedy.resource
        of = [
            one for one in self.state.attempts if one.resource == mine or (one.counted and overlap(one.resource, mine))
        ]
        return max(of, key=lambda attempt: attempt.at_ms, default=None)

    @property
    def rival(self) -> Act | None:
        """What is open on a part of the resource, or on what it is a part of."""
        mine = self.remedy.resource
        others = (act for act in self.state.acts if act.resource != mine and overlap(act.resource, mine))
        return next(others, None)

    def resumed_ms(self, name: str) -> int:
        """When a remedy, or the host, was last resumed."""
        return self.state.resumed_ms.get(name, -HOUR_MS)

    def spent(self, name: str) -> int:
        """How many acts of a remedy, or of all, the last hour has seen since it was resumed."""
        since = max(self.world.now_ms - HOUR_MS, self.resumed_ms(name))
        return sum(
            attempt.counted
            and attempt.observed == self.world.observing
            and attempt.began_ms > since
            and name in (HOST, attempt.remedy)
            for attempt in self.state.attempts
        )


def _paused(case: Case) -> str:
    if case.world.killed:
        return "the kill-switch file is there"
    return f"paused: {', '.join(case.state.pauses)}" if case.state.pauses else ""


def _halted(case: Case) -> str:
    return case.world.halted


def _without_evidence(case: Case) -> str:
    return evidence_missing(case.remedy, case.seen)


def _silenced(case: Case) -> str:
    return "silenced in Alertmanager" if case.session.labels in case.world.silenced else ""


def _told_once(case: Case) -> str:
    """A posted alert is no evidence that the condition is still there: one telling begins one act."""
    once = case.seen.source == "webhook" and case.session.attempts > 0
    return "acted upon once; a posted alert begins nothing again until it is told anew" if once else ""


def _latched(case: Case) -> str:
    if case.world.observing:
        return ""
    names = (case.remedy.name, HOST)
    return next((f"given up: {latch.why}" for latch in case.state.latches if latch.remedy in names), "")


def _cooling(case: Case) -> str:
    left = 0 if case.last is None else case.last.began_ms + case.remedy.cooldown_ms - case.world.now_ms
    return "cooling down since the last attempt" if left > 0 else ""


def _not_held_again(case: Case) -> str:
    """After an act the alert must hold for a whole cooldown on samples newer than the act."""
    resumed = max(case.resumed_ms(case.remedy.name), case.resumed_ms(HOST))
    floors = [resumed] if resumed > 0 else []
    if case.last is not None:
        floors.append(case.last.at_ms + case.seen.window_ms)
    since = case.session.since_ms
    if not floors or since is None:
        return ""
    held_ms = case.world.now_ms - max(since, *floors)
    return "" if held_ms >= case.remedy.cooldown_ms else "waiting for a whole cooldown of evidence newer than the act"


def _busy(case: Case) -> str:
    open_act = next((act for act in case.state.acts if act.unverified), None)
    return f"one act at a time: {open_act.remedy} is not verified yet" if open_act else ""


def _rivalled(case: Case) -> str:
    """What overlaps is held by one at a time; only what is stricter may end what is held, once it may act itself."""
    rival = case.rival
    if rival is None or (rival.phase is Phase.HELD and rival.claims and _is_stricter(case, rival)):
        return ""
    return f"{rival.resource} is held by {rival.remedy}, and {case.remedy.resource} overlaps with it"


def _is_stricter(case: Case, rival: Act) -> bool:
    return rival.reversible and case.remedy.reversible and case.remedy.strength < rival.strictest.strength


def _attempts_spent(case: Case) -> str:
    spent = case.session.attempts >= case.remedy.max_attempts
    return f"tried {case.session.attempts} times for this alert (max_attempts)" if spent else ""


def _budget_spent(case: Case) -> str:
    spent = case.spent(case.remedy.name)
    return f"acted {spent} times in an hour (max_per_hour)" if spent >= case.remedy.max_per_hour else ""


def _host_budget_spent(case: Case) -> str:
    spent = case.spent(HOST)
    limit = case.world.max_per_hour
    return f"all remedies acted {spent} times in an hour (remediation.max_per_hour)" if spent >= limit else ""


GUARDS: tuple[tuple[Callable[[Case], str], str | None], ...] = (
    (_paused, None),
    (_halted, None),
    (_silenced, None),
    (_without_evidence, None),
    (_told_once, None),
    (_latched, None),
    (_cooling, None),
    (_not_held_again, None),
    (_busy, None),
    (_rivalled, None),
    (_attempts_spent, "remedy"),
    (_budget_spent, "remedy"),
    (_host_budget_spent, HOST),
)
"""Asked in this order: the reason against acting, and whose latch falls where that reason is the only one left."""


def decide(state: State, world: World) -> Step:
    """What is to be begun and put back now."""
    remedies = {remedy.name: remedy for remedy in world.remedies if remedy.enabled}
    state = replace(state, sessions=_sessions(state, world, remedies), attempts=_kept(state, world))
    state, release, entries = claims.kept(state, world, remedies)
    begin: list[Act] = []
    alerts = {seen.alert.labels: seen for seen in world.alerts}
    for session in state.sessions:
        seen = alerts.get(session.labels)
        case = None if seen is None else Case(state, world, remedies[session.remedy], seen, session)
        if case is not None:
            after, act, told = _consider(case)
            begin += [] if act is None else [act]
            release += [one for one in after.acts if one.phase is Phase.RELEASING and one not in state.acts]
            state = after
            entries += told
    return Step(state, tuple(begin), tuple(release), tuple(entries))


STOPPING = (_paused, _halted, _silenced, _without_evidence)
"""Asked once more before the write."""


def stopped(state: State, world: World, act: Act) -> str:
    """Why what has been planned may not be written any more: a plan may take minutes. Empty where it may."""
    remedy = next((each for each in world.remedies if each.enabled and each.name == act.remedy), None)
    firing = (seen for seen in world.alerts if seen.alert.state is AlertState.FIRING)
    seen = next((seen for seen in firing if seen.alert.labels == act.labels), None)
    if act.observed != world.observing:
        return claims.mode(world)
    if remedy is None:
        return "the remedy has left the configuration"
    if seen is None:
        return "its alert has ended"
    case = Case(state, world, remedy, seen, Session(remedy.name, act.labels, None))
    return next(filter(None, (guard(case) for guard in STOPPING)), "")


def _sessions(state: State, world: World, remedies: Mapping[str, Remedy]) -> tuple[Session, ...]:
    """An alert's session lasts while it fires; one that is lost goes on, without evidence."""
    known = {(session.remedy, session.labels): session for session in state.sessions}
    found = []
    for remedy in remedies.values():
        for seen in world.alerts:
            alert = seen.alert
            if alert.state is not AlertState.FIRING or not matches(remedy, seen):
                continue
            before = known.get((remedy.name, alert.labels), Session(remedy.name, alert.labels, None))
            there = not evidence_missing(remedy, seen)
            since = (world.now_ms if before.since_ms is None else before.since_ms) if there else None
            found.append(replace(before, since_ms=since, lost=alert.lost_since_ms is not None or not alert.fresh))
    return tuple(found)


def _kept(state: State, world: World) -> tuple[Attempt, ...]:
    """The attempts that a cooldown or a budget may still ask for: the newest of each resource whatever its age."""
    newest = {attempt.resource: attempt for attempt in sorted(state.attempts, key=lambda attempt: attempt.at_ms)}
    open_acts = {act.id for act in state.acts}
    return tuple(
        attempt
        for attempt in state.attempts
        if world.now_ms - attempt.began_ms <= HOUR_MS or newest[attempt.resource] is attempt or attempt.act in open_acts
    )


def _consider(case: Case) -> tuple[State, Act | None, list[Entry]]:
    held = next((act for act in case.state.acts if act.resource == case.remedy.resource), None)
    if held is not None and _joins(case, held):
        return _joined(case, held)
    if held is not None and held.phase is not Phase.HELD:
        return case.state, None, []  # it is being written or put back: the next tick sees which
    for guard, latch in GUARDS:
        why = guard(case)
        if why:
            return _suppressed(case, why, latch)
    return _begun(case, held) if case.rival is None else _given_way(case, case.rival)


def _given_way(case: Case, rival: Act) -> tuple[State, Act | None, list[Entry]]:
    """What overlaps and is less strict is put back first; this one begins when it is gone."""
    rival = replace(rival, phase=Phase.RELEASING)
    entry = entry_of(case.world.now_ms, rival, "release", f"{case.remedy.name} is stricter, and overlaps with it")
    return case.state.with_act(rival), None, [entry]


def _joins(case: Case, held: Act) -> bool:
    """Whether a claim needs no act: it is there already, or what is held is strict enough for it."""
    mine = (case.remedy.name, case.session.labels)
    there = any((claim.remedy, claim.labels) == mine for claim in held.claims)
    enough = held.reversible and bool(held.claims) and held.strictest.strength <= case.remedy.strength
    return there or (held.phase is Phase.HELD and enough)


def _joined(case: Case, held: Act) -> tuple[State, Act | None, list[Entry]]:
    claim = Claim(case.remedy.name, case.session.labels, case.remedy.strength, lost=case.session.lost)
    mine = any((one.remedy, one.labels) == (claim.remedy, claim.labels) for one in held.claims)
    if mine or evidence_missing(case.remedy, case.seen):
        return case.state, None, []
    held = replace(held, claims=(*held.claims, claim))
    entry = entry_of(case.world.now_ms, held, "claim", "it is held already; this alert claims it too")
    return case.state.with_act(held), None, [entry._replace(remedy=claim.remedy, labels=claim.labels)]


def _suppressed(case: Case, why: str, latch: str | None) -> tuple[State, Act | None, list[Entry]]:
    state, entries = case.state, []
    if latch is not None and not case.world.observing:
        name = HOST if latch == HOST else case.remedy.name
        state = replace(state, latches=(*state.latches, Latch(name, case.session.labels, case.world.now_ms, why)))
        entries.append(_said(case, "gave up", f"{why}; `steadytok remedies resume` lifts it"))
    elif why != case.session.told:
        entries.append(_said(case, "suppressed", why))
    return with_session(state, replace(case.session, told=why)), None, entries


def _begun(case: Case, held: Act | None) -> tuple[State, Act | None, list[Entry]]:
    now, remedy, session = case.world.now_ms, case.remedy, case.session
    claim = Claim(remedy.name, session.labels, remedy.strength)
    number, state = case.state.next_id, replace(case.state, next_id=case.state.next_id + 1)
    act = Act(
        id=number,
        remedy=remedy.name,
        resource=remedy.resource,
        labels=session.labels,
        observed=case.world.observing,
        reversible=remedy.reversible,
        phase=Phase.STARTED,
        began_ms=now,
        claims=(claim,),
        means=remedy.means,
    )
    if held is not None:  # stricter than what is held: the same engagement, tightened, and to be verified anew
        act = replace(
            held,
            claims=(*held.claims, claim),
            did_ms=now,
            verified=held.observed,
            trial=None if held.observed else claim,
            before=None,
        )
        state = state.with_act(act)
    else:
        state = replace(state, acts=(*state.acts, act))
    attempt = Attempt(act.id, remedy.name, remedy.resource, now, now, act.observed)
    state = replace(state, attempts=(*state.attempts, attempt))
    state = with_session(state, replace(session, attempts=session.attempts + 1, told=""))
    return state, act if held is None else None, [_said(case, "begin" if held is None else "tighten", "", act.id)]


def _said(case: Case, what: str, says: str, act: int = 0) -> Entry:
    remedy, now = case.remedy, case.world.now_ms
    entry = Entry(now, remedy.name, case.session.labels, remedy.resource, what, says, case.world.observing, act)
    return entry._replace(value=case.seen.alert.value)
