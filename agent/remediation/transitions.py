"""
The life of an act, by the table TRANSITIONS: from its phase and an event to the next state. Pure.

An act with an unknown outcome is not tried again; a written value is undone only while it is still ours; a remedy that
does not help switches itself off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.remediation.model import (
    HOST,
    Act,
    AlertEpisode,
    AuditEntry,
    Decision,
    Event,
    EventKind,
    Latch,
    Phase,
    RemediationState,
)
from agent.text.event_words import describe_event

MAX_MISSES = 3
"""The misses in a row after which a remedy switches itself off."""

VERDICT_KINDS = (EventKind.HELPED, EventKind.USELESS, EventKind.UNJUDGED)


def apply(state: RemediationState, event: Event, now_ms: int) -> Decision:
    """Applies an event to its act; an event that its phase does not expect is only written to the audit."""
    act = state.find_act(event.act)
    if act is None:
        return Decision(state)
    transition = TRANSITIONS.get((act.phase, event.kind))
    entry = _make_event_entry(now_ms, act, event)
    if transition is None:
        return Decision(state, entries=(entry._replace(what="unexpected"),))
    after = transition(state, act, event, now_ms)
    releasing = after.find_act(act.id)
    newly = releasing is not None and releasing.phase is Phase.RELEASING and act.phase is not Phase.RELEASING
    return Decision(after, (), (releasing,) if newly and releasing else (), (entry,))


def _on_refused(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    attempts = tuple(
        replace(attempt, counted=False) if attempt.act == act.id else attempt for attempt in state.attempts
    )
    episodes = [episode for episode in state.episodes if (episode.remedy, episode.labels) == (act.remedy, act.labels)]
    for episode in episodes:
        state = with_episode(state, replace(episode, attempts=max(0, episode.attempts - 1)))
    return replace(state, attempts=attempts).without_act(act.id)


def _on_intended(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    ours = () if event.value is None else (event.value,)
    writing = replace(act, phase=Phase.WRITING, prior=event.prior, ours=ours, plan=event.detail, before=event.before)
    return state.with_act(writing)


def _on_did(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    attempts = tuple(replace(attempt, at_ms=now_ms) if attempt.act == act.id else attempt for attempt in state.attempts)
    state = replace(state, attempts=attempts)
    if act.observed and not act.reversible:
        return state.without_act(act.id)
    return state.with_act(replace(act, phase=Phase.HELD, did_ms=now_ms, verified=act.observed))


def _on_failed(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    state = _mark_episode(state, act)
    if act.phase is Phase.STARTED or not act.reversible:
        return state.without_act(act.id)
    return state.with_act(replace(act, phase=Phase.RELEASING))


def _on_unknown(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    reason = f"the outcome of act {act.id} is unknown: {event.detail or 'no answer'}"
    return _on_failed(_add_latch(state, act, reason, now_ms), act, event, now_ms)


def _on_interrupted_write(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    """A reversible value can be read back, so an unknown write is undone; any other act is not tried again."""
    return _on_failed(state, act, event, now_ms) if act.reversible else _on_unknown(state, act, event, now_ms)


def _end_act(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    return state.without_act(act.id)


def _keep_state(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    return state


def _on_helped(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    misses = {name: count for name, count in state.misses.items() if name != act.verdict_key[0]}
    state = _mark_episode(replace(state, misses=misses), act, failed=False)
    return _verify_act(state, act, event)


def _on_unjudged(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    return _verify_act(state, act, event)


def _verify_act(state: RemediationState, act: Act, event: Event) -> RemediationState:
    state = _record_effect(state, act, event)
    after = replace(act, verified=True, pending_tightening=None)
    return state.with_act(after) if act.reversible else state.without_act(act.id)


def _on_useless(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    name, _ = act.verdict_key
    count = state.misses.get(name, 0) + 1
    state = _record_effect(replace(state, misses={**state.misses, name: count}), act, event)
    if count >= MAX_MISSES:
        state = _add_latch(state, act, f"it did not help {count} times in a row", now_ms)
    others = tuple(claim for claim in act.claims if claim.remedy != name)
    if act.pending_tightening is None or not others:
        return _on_failed(state, act, event, now_ms)
    # Only the tightening is undone: the value that the other claims hold stays.
    return _mark_episode(state, act).with_act(replace(act, claims=others, verified=True, pending_tightening=None))


def _record_effect(state: RemediationState, act: Act, event: Event) -> RemediationState:
    """Records the verdict as the last effect of its remedy."""
    words = "; ".join(filter(None, (event.detail, describe_event(event.kind.value))))
    return replace(state, effects={**state.effects, act.verdict_key[0]: words})


def _on_retuning(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    written_values = act.ours if event.value is None or event.value in act.ours else (*act.ours, event.value)
    return state.with_act(replace(act, ours=written_values, before=act.before or event.before))


def _on_retuned(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    return state.with_act(replace(act, ours=act.ours if event.value is None else (event.value,)))


def _on_changed(state: RemediationState, act: Act, event: Event, now_ms: int) -> RemediationState:
    """Leaves a value alone that somebody else has changed, or two would fight over it."""
    reason = f"{act.resource} was changed by someone else"
    return _add_latch(state, replace(act, pending_tightening=None), reason, now_ms).without_act(act.id)


Transition = Callable[[RemediationState, Act, Event, int], RemediationState]

TRANSITIONS: Mapping[tuple[Phase, EventKind], Transition] = {
    (Phase.STARTED, EventKind.REFUSED): _on_refused,
    (Phase.STARTED, EventKind.INTENDED): _on_intended,
    (Phase.STARTED, EventKind.FAILED): _on_failed,
    (Phase.STARTED, EventKind.UNKNOWN): _on_failed,  # a plan touches nothing
    (Phase.STARTED, EventKind.INTERRUPTED): _end_act,
    (Phase.WRITING, EventKind.REFUSED): _on_refused,  # the reason came between the plan and the write
    (Phase.WRITING, EventKind.DID): _on_did,
    (Phase.WRITING, EventKind.FAILED): _on_failed,
    (Phase.WRITING, EventKind.UNKNOWN): _on_unknown,
    (Phase.WRITING, EventKind.CHANGED): _on_changed,  # between the plan and the write: it was not written
    (Phase.WRITING, EventKind.INTERRUPTED): _on_interrupted_write,
    (Phase.HELD, EventKind.HELPED): _on_helped,
    (Phase.HELD, EventKind.USELESS): _on_useless,
    (Phase.HELD, EventKind.UNJUDGED): _on_unjudged,
    (Phase.HELD, EventKind.RETUNING): _on_retuning,
    (Phase.HELD, EventKind.RETUNED): _on_retuned,
    # A renewal that failed: the lease ends by itself, or the next one renews it
    (Phase.HELD, EventKind.FAILED): _keep_state,
    (Phase.HELD, EventKind.UNKNOWN): _keep_state,  # as after a failed renewal
    (Phase.HELD, EventKind.CHANGED): _on_changed,
    (Phase.HELD, EventKind.INTERRUPTED): _keep_state,  # its alerts say whether it stays
    (Phase.RELEASING, EventKind.RESTORED): _end_act,
    (Phase.RELEASING, EventKind.CHANGED): _end_act,
    (Phase.RELEASING, EventKind.FAILED): _keep_state,  # tried again until it is undone
    (Phase.RELEASING, EventKind.UNKNOWN): _keep_state,  # tried again, too
    (Phase.RELEASING, EventKind.INTERRUPTED): _keep_state,
}
"""The whole life of an act; any other event is unexpected, and changes nothing."""


def pause(state: RemediationState, name: str) -> RemediationState:
    """Adds a pause: no act begins until it is resumed."""
    return state if name in state.pauses else replace(state, pauses=(*state.pauses, name))


def resume(state: RemediationState, name: str | None, now_ms: int) -> RemediationState:
    """Lifts a pause, or a remedy's latch, or all of both; waiting alerts must show their evidence anew."""
    latched = {latch.remedy for latch in state.latches if name in (None, latch.remedy)}
    resumed = {**state.resumed_ms, **dict.fromkeys(latched, now_ms)}
    return replace(
        state,
        pauses=tuple(pause for pause in state.pauses if name not in (None, pause)),
        latches=tuple(latch for latch in state.latches if latch.remedy not in latched),
        misses={remedy: count for remedy, count in state.misses.items() if remedy not in latched},
        episodes=tuple(
            replace(episode, attempts=0, last_reason="") if episode.remedy in latched or HOST in latched else episode
            for episode in state.episodes
        ),
        resumed_ms=resumed,
    )


def _add_latch(state: RemediationState, act: Act, reason: str, now_ms: int) -> RemediationState:
    name, labels = act.verdict_key
    if act.observed or any(latch.remedy == name for latch in state.latches):
        return state
    return replace(state, latches=(*state.latches, Latch(name, labels, now_ms, reason)))


def _mark_episode(state: RemediationState, act: Act, *, failed: bool = True) -> RemediationState:
    """Records in the alert's episode how its newest act ended."""
    for episode in state.episodes:
        if (episode.remedy, episode.labels) == act.verdict_key:
            return with_episode(state, replace(episode, failed=failed))
    return state


def with_episode(state: RemediationState, episode: AlertEpisode) -> RemediationState:
    """Returns the state with one episode changed."""
    key = (episode.remedy, episode.labels)
    return replace(
        state, episodes=tuple(episode if (other.remedy, other.labels) == key else other for other in state.episodes)
    )


def _make_event_entry(at_ms: int, act: Act, event: Event) -> AuditEntry:
    """Makes the audit's line of an event, with the measurements if there are any."""
    before = event.before if event.kind is EventKind.INTENDED else act.before if event.after is not None else None
    before_text = before.summary if event.kind is EventKind.INTENDED and before is not None else ""
    detail = f"{event.detail}; before: {before_text}" if before_text else event.detail
    entry = make_entry(at_ms, act, event.kind.value, detail)._replace(before=before, after=event.after)
    if event.kind not in VERDICT_KINDS:
        return entry
    remedy, labels = act.verdict_key
    return entry._replace(remedy=remedy, labels=labels)


def make_entry(at_ms: int, act: Act, event_name: str, detail: str) -> AuditEntry:
    """Makes a line of the audit on an act."""
    return AuditEntry(at_ms, act.remedy, act.labels, act.resource, event_name, detail, act.observed, act.id)
