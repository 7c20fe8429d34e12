"""
Decides whether to act, by the table GUARDS. transitions.py has the life of an act, claims.py its holders. All are pure;
the time is passed in.

The contract is older than this file: the tests of the guards in tests/agent/remediation have each of its clauses by
name, with the failures of those who lacked it. In short:

- the evidence is there and holds;
- a cooldown counts from the attempt, dry runs too;
- one act at a time, until it is known whether it helped;
- a budget, and after it a latch that only people lift;
- alerts may claim one resource together: the strictest claim wins, and the end of the last one undoes the act;
- an act with an unknown outcome is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.remediation import claims, evidence
from agent.remediation.model import (
    HOST,
    Act,
    AlertEpisode,
    AlertInput,
    Attempt,
    AuditEntry,
    Claim,
    Decision,
    DecisionInputs,
    Latch,
    Phase,
    RemediationState,
    Remedy,
    overlaps,
)
from agent.remediation.transitions import make_entry, with_episode
from rules.alerts import AlertState

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A remedy and a firing alert that it is for."""

    state: RemediationState
    inputs: DecisionInputs
    remedy: Remedy
    alert_input: AlertInput
    episode: AlertEpisode

    @property
    def last_attempt(self) -> Attempt | None:
        """
        The newest attempt on the resource, by any remedy, or on an overlapping resource.

        On an overlapping one only attempts that were not refused count: a reclaim that the kernel lacks delays no
        drop_caches.
        """
        resource = self.remedy.resource
        related = [
            past_attempt
            for past_attempt in self.state.attempts
            if past_attempt.resource == resource or (past_attempt.counted and overlaps(past_attempt.resource, resource))
        ]
        return max(related, key=lambda attempt: attempt.at_ms, default=None)

    @property
    def rival(self) -> Act | None:
        """The open act on a part of the resource, or on a resource that it is a part of."""
        resource = self.remedy.resource
        others = (act for act in self.state.acts if act.resource != resource and overlaps(act.resource, resource))
        return next(others, None)

    def get_resumed_ms(self, name: str) -> int:
        """Returns the time at which a remedy, or the host, was last resumed."""
        return self.state.resumed_ms.get(name, -HOUR_MS)

    def count_recent_acts(self, name: str) -> int:
        """Counts the acts of a remedy, or of all, in the last hour since it was resumed."""
        since = max(self.inputs.now_ms - HOUR_MS, self.get_resumed_ms(name))
        return sum(
            attempt.counted
            and attempt.observed == self.inputs.observing
            and attempt.began_ms > since
            and name in (HOST, attempt.remedy)
            for attempt in self.state.attempts
        )


def _check_pause(candidate: Candidate) -> str:
    if candidate.inputs.killed:
        return "the kill-switch file exists"
    return f"paused: {', '.join(candidate.state.pauses)}" if candidate.state.pauses else ""


def _check_halt(candidate: Candidate) -> str:
    return candidate.inputs.halted


def _check_evidence(candidate: Candidate) -> str:
    return evidence.find_evidence_fault(candidate.remedy, candidate.alert_input)


def _check_silence(candidate: Candidate) -> str:
    return "silenced in Alertmanager" if candidate.episode.labels in candidate.inputs.silenced else ""


def _check_posted_once(candidate: Candidate) -> str:
    """A posted alert does not show that the condition goes on: each post begins one act."""
    already_acted = candidate.alert_input.source == "webhook" and candidate.episode.attempts > 0
    return "one act for each posted alert; the next one needs a new post" if already_acted else ""


def _check_latch(candidate: Candidate) -> str:
    if candidate.inputs.observing:
        return ""
    names = (candidate.remedy.name, HOST)
    return next((f"given up: {latch.why}" for latch in candidate.state.latches if latch.remedy in names), "")


def _check_cooldown(candidate: Candidate) -> str:
    remaining_ms = (
        0
        if candidate.last_attempt is None
        else candidate.last_attempt.began_ms + candidate.remedy.cooldown_ms - candidate.inputs.now_ms
    )
    return "cooling down since the last attempt" if remaining_ms > 0 else ""


def _check_new_evidence(candidate: Candidate) -> str:
    """After an act the alert must hold for a whole cooldown on samples newer than the act."""
    resumed = max(candidate.get_resumed_ms(candidate.remedy.name), candidate.get_resumed_ms(HOST))
    floors = [resumed] if resumed > 0 else []
    if candidate.last_attempt is not None:
        floors.append(candidate.last_attempt.at_ms + candidate.alert_input.window_ms)
    since = candidate.episode.since_ms
    if not floors or since is None:
        return ""
    held_ms = candidate.inputs.now_ms - max(since, *floors)
    return (
        "" if held_ms >= candidate.remedy.cooldown_ms else "waiting for a whole cooldown of evidence newer than the act"
    )


def _check_unverified_act(candidate: Candidate) -> str:
    open_act = next((act for act in candidate.state.acts if act.is_blocking), None)
    return f"one act at a time: {open_act.remedy} is not verified yet" if open_act else ""


def _check_overlap(candidate: Candidate) -> str:
    """One act at a time holds overlapping resources; only a stricter remedy may end it, once it may act itself."""
    rival = candidate.rival
    if rival is None or (rival.phase is Phase.HELD and rival.claims and _is_stricter(candidate, rival)):
        return ""
    return f"{rival.resource} is held by {rival.remedy}, and {candidate.remedy.resource} overlaps with it"


def _is_stricter(candidate: Candidate, rival: Act) -> bool:
    return (
        rival.reversible and candidate.remedy.reversible and candidate.remedy.strength < rival.tightest_claim.strength
    )


def _check_attempts(candidate: Candidate) -> str:
    exhausted = candidate.episode.attempts >= candidate.remedy.max_attempts
    return f"tried {candidate.episode.attempts} times for this alert (max_attempts)" if exhausted else ""


def _check_budget(candidate: Candidate) -> str:
    count = candidate.count_recent_acts(candidate.remedy.name)
    return f"acted {count} times in an hour (max_per_hour)" if count >= candidate.remedy.max_per_hour else ""


def _check_host_budget(candidate: Candidate) -> str:
    count = candidate.count_recent_acts(HOST)
    limit = candidate.inputs.max_per_hour
    return f"all remedies acted {count} times in an hour (remediation.max_per_hour)" if count >= limit else ""


GUARDS: tuple[tuple[Callable[[Candidate], str], str | None], ...] = (
    (_check_pause, None),
    (_check_halt, None),
    (_check_silence, None),
    (_check_evidence, None),
    (_check_posted_once, None),
    (_check_latch, None),
    (_check_cooldown, None),
    (_check_new_evidence, None),
    (_check_unverified_act, None),
    (_check_overlap, None),
    (_check_attempts, "remedy"),
    (_check_budget, "remedy"),
    (_check_host_budget, HOST),
)
"""
The guards in their order: each returns a reason against acting, and says whose latch falls if it is the only one left.
"""


def decide(state: RemediationState, inputs: DecisionInputs) -> Decision:
    """Returns the acts to begin and to undo now."""
    remedies = {remedy.name: remedy for remedy in inputs.remedies if remedy.enabled}
    state = replace(
        state, sessions=evidence.update_episodes(state, inputs, remedies), attempts=_prune_attempts(state, inputs)
    )
    state, release, entries = claims.update_claims(state, inputs, remedies)
    begin: list[Act] = []
    alerts = {alert_input.alert.labels: alert_input for alert_input in inputs.alerts}
    for episode in state.sessions:
        alert_input = alerts.get(episode.labels)
        candidate = (
            None if alert_input is None else Candidate(state, inputs, remedies[episode.remedy], alert_input, episode)
        )
        if candidate is not None:
            after, act, new_entries = _evaluate_candidate(candidate)
            begin += [] if act is None else [act]
            release += [
                releasing
                for releasing in after.acts
                if releasing.phase is Phase.RELEASING and releasing not in state.acts
            ]
            state = after
            entries += new_entries
    return Decision(state, tuple(begin), tuple(release), tuple(entries))


RECHECKED_GUARDS = (_check_pause, _check_halt, _check_silence, _check_evidence)
"""The guards that are asked once more before the write."""


def find_stop_reason(state: RemediationState, inputs: DecisionInputs, act: Act) -> str:
    """Returns the reason why a planned act may no longer be written, since a plan may take minutes; empty if it may."""
    remedy = next(
        (configured for configured in inputs.remedies if configured.enabled and configured.name == act.remedy), None
    )
    firing = (alert_input for alert_input in inputs.alerts if alert_input.alert.state is AlertState.FIRING)
    alert_input = next((alert_input for alert_input in firing if alert_input.alert.labels == act.labels), None)
    if act.observed != inputs.observing:
        return claims.describe_mode(inputs)
    if remedy is None:
        return "the remedy has left the configuration"
    if alert_input is None:
        return "its alert has ended"
    candidate = Candidate(state, inputs, remedy, alert_input, AlertEpisode(remedy.name, act.labels, None))
    return next(filter(None, (guard(candidate) for guard in RECHECKED_GUARDS)), "")


def _prune_attempts(state: RemediationState, inputs: DecisionInputs) -> tuple[Attempt, ...]:
    """Keeps the attempts that a cooldown or a budget may need: the newest of each resource whatever its age."""
    newest = {attempt.resource: attempt for attempt in sorted(state.attempts, key=lambda attempt: attempt.at_ms)}
    open_acts = {act.id for act in state.acts}
    return tuple(
        attempt
        for attempt in state.attempts
        if inputs.now_ms - attempt.began_ms <= HOUR_MS
        or newest[attempt.resource] is attempt
        or attempt.act in open_acts
    )


def _evaluate_candidate(candidate: Candidate) -> tuple[RemediationState, Act | None, list[AuditEntry]]:
    held_act = next((act for act in candidate.state.acts if act.resource == candidate.remedy.resource), None)
    if held_act is not None and _can_join(candidate, held_act):
        return _join_claim(candidate, held_act)
    if held_act is not None and held_act.phase is not Phase.HELD:
        return candidate.state, None, []  # it is being written or undone: the next tick sees the outcome
    for guard, latch in GUARDS:
        reason = guard(candidate)
        if reason:
            return _suppress(candidate, reason, latch)
    return _begin_act(candidate, held_act) if candidate.rival is None else _release_rival(candidate, candidate.rival)


def _release_rival(candidate: Candidate, rival: Act) -> tuple[RemediationState, Act | None, list[AuditEntry]]:
    """Undoes an overlapping act that is less strict; the candidate begins once it is gone."""
    rival = replace(rival, phase=Phase.RELEASING)
    entry = make_entry(
        candidate.inputs.now_ms, rival, "release", f"{candidate.remedy.name} is stricter, and overlaps with it"
    )
    return candidate.state.with_act(rival), None, [entry]


def _can_join(candidate: Candidate, held_act: Act) -> bool:
    """True if a claim needs no act: it exists already, or the held value is strict enough for it."""
    key = (candidate.remedy.name, candidate.episode.labels)
    already_claims = any((claim.remedy, claim.labels) == key for claim in held_act.claims)
    strict_enough = (
        held_act.reversible and bool(held_act.claims) and held_act.tightest_claim.strength <= candidate.remedy.strength
    )
    return already_claims or (held_act.phase is Phase.HELD and strict_enough)


def _join_claim(candidate: Candidate, held_act: Act) -> tuple[RemediationState, Act | None, list[AuditEntry]]:
    claim = Claim(
        candidate.remedy.name, candidate.episode.labels, candidate.remedy.strength, lost=candidate.episode.lost
    )
    already_claims = any(
        (existing.remedy, existing.labels) == (claim.remedy, claim.labels) for existing in held_act.claims
    )
    if already_claims or evidence.find_evidence_fault(candidate.remedy, candidate.alert_input):
        return candidate.state, None, []
    held_act = replace(held_act, claims=(*held_act.claims, claim))
    entry = make_entry(candidate.inputs.now_ms, held_act, "claim", "it is held already; this alert claims it too")
    return candidate.state.with_act(held_act), None, [entry._replace(remedy=claim.remedy, labels=claim.labels)]


def _suppress(
    candidate: Candidate, reason: str, latch: str | None
) -> tuple[RemediationState, Act | None, list[AuditEntry]]:
    state, entries = candidate.state, []
    if latch is not None and not candidate.inputs.observing:
        name = HOST if latch == HOST else candidate.remedy.name
        state = replace(
            state, latches=(*state.latches, Latch(name, candidate.episode.labels, candidate.inputs.now_ms, reason))
        )
        entries.append(_make_entry(candidate, "gave up", f"{reason}; `steadytok remedies resume` lifts it"))
    elif reason != candidate.episode.told:
        entries.append(_make_entry(candidate, "suppressed", reason))
    return with_episode(state, replace(candidate.episode, told=reason)), None, entries


def _begin_act(candidate: Candidate, held_act: Act | None) -> tuple[RemediationState, Act | None, list[AuditEntry]]:
    now_ms, remedy, episode = candidate.inputs.now_ms, candidate.remedy, candidate.episode
    claim = Claim(remedy.name, episode.labels, remedy.strength)
    number, state = candidate.state.next_id, replace(candidate.state, next_id=candidate.state.next_id + 1)
    act = Act(
        id=number,
        remedy=remedy.name,
        resource=remedy.resource,
        labels=episode.labels,
        observed=candidate.inputs.observing,
        reversible=remedy.reversible,
        phase=Phase.STARTED,
        began_ms=now_ms,
        claims=(claim,),
        means=remedy.undo_recipe,
    )
    if held_act is not None:  # stricter than the held value: the same act, tightened, and to be verified anew
        act = replace(
            held_act,
            claims=(*held_act.claims, claim),
            did_ms=now_ms,
            verified=held_act.observed,
            trial=None if held_act.observed else claim,
            before=None,
        )
        state = state.with_act(act)
    else:
        state = replace(state, acts=(*state.acts, act))
    attempt = Attempt(act.id, remedy.name, remedy.resource, now_ms, now_ms, act.observed)
    state = replace(state, attempts=(*state.attempts, attempt))
    state = with_episode(state, replace(episode, attempts=episode.attempts + 1, told=""))
    return (
        state,
        act if held_act is None else None,
        [_make_entry(candidate, "begin" if held_act is None else "tighten", "", act.id)],
    )


def _make_entry(candidate: Candidate, event_name: str, detail: str, act: int = 0) -> AuditEntry:
    remedy, now_ms = candidate.remedy, candidate.inputs.now_ms
    entry = AuditEntry(
        now_ms,
        remedy.name,
        candidate.episode.labels,
        remedy.resource,
        event_name,
        detail,
        candidate.inputs.observing,
        act,
    )
    return entry._replace(value=candidate.alert_input.alert.value)
