"""
What becomes of an act: the table LIFE, from (how far it has come, what happened) to what is remembered after. Pure.

What is not known is not tried again; what was written is put back only while it is still ours; a remedy that does not
help switches itself off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.remediation.model import HOST, Act, Entry, Event, Kind, Latch, Phase, Session, State, Step

MOST_MISSES = 3
"""A remedy that did not help so often in a row switches itself off."""

WORDS = {Kind.HELPED: "helped", Kind.USELESS: "did not help", Kind.UNJUDGED: "not judged"}
"""The verdicts."""


def apply(state: State, event: Event, now_ms: int) -> Step:
    """What an event makes of its act; one of an act that has ended, or that cannot be in its phase, is only noted."""
    act = state.act(event.act)
    if act is None:
        return Step(state)
    change = LIFE.get((act.phase, event.kind))
    entry = _entry(now_ms, act, event)
    if change is None:
        return Step(state, entries=(entry._replace(what="unexpected"),))
    after = change(state, act, event, now_ms)
    releasing = after.act(act.id)
    newly = releasing is not None and releasing.phase is Phase.RELEASING and act.phase is not Phase.RELEASING
    return Step(after, (), (releasing,) if newly and releasing else (), (entry,))


def _refused(state: State, act: Act, event: Event, now_ms: int) -> State:
    attempts = tuple(replace(one, counted=False) if one.act == act.id else one for one in state.attempts)
    back = [session for session in state.sessions if (session.remedy, session.labels) == (act.remedy, act.labels)]
    for session in back:
        state = with_session(state, replace(session, attempts=max(0, session.attempts - 1)))
    return replace(state, attempts=attempts).without_act(act.id)


def _intended(state: State, act: Act, event: Event, now_ms: int) -> State:
    ours = () if event.value is None else (event.value,)
    writing = replace(act, phase=Phase.WRITING, prior=event.prior, ours=ours, plan=event.says, before=event.before)
    return state.with_act(writing)


def _did(state: State, act: Act, event: Event, now_ms: int) -> State:
    attempts = tuple(replace(one, at_ms=now_ms) if one.act == act.id else one for one in state.attempts)
    state = replace(state, attempts=attempts)
    if act.observed and not act.reversible:
        return state.without_act(act.id)
    return state.with_act(replace(act, phase=Phase.HELD, did_ms=now_ms, verified=act.observed))


def _failed(state: State, act: Act, event: Event, now_ms: int) -> State:
    state = _marked(state, act)
    if act.phase is Phase.STARTED or not act.reversible:
        return state.without_act(act.id)
    return state.with_act(replace(act, phase=Phase.RELEASING))


def _unknown(state: State, act: Act, event: Event, now_ms: int) -> State:
    why = f"nobody knows what became of act {act.id}: {event.says or 'no answer'}"
    return _failed(_latch(state, act, why, now_ms), act, event, now_ms)


def _interrupted_write(state: State, act: Act, event: Event, now_ms: int) -> State:
    """A value can be read back, so what is not known is put right; anything else is not tried again."""
    return _failed(state, act, event, now_ms) if act.reversible else _unknown(state, act, event, now_ms)


def _ended(state: State, act: Act, event: Event, now_ms: int) -> State:
    return state.without_act(act.id)


def _unchanged(state: State, act: Act, event: Event, now_ms: int) -> State:
    return state


def _helped(state: State, act: Act, event: Event, now_ms: int) -> State:
    misses = {name: count for name, count in state.misses.items() if name != act.tried[0]}
    state = _marked(replace(state, misses=misses), act, failed=False)
    return _judged(state, act, event)


def _unjudged(state: State, act: Act, event: Event, now_ms: int) -> State:
    return _judged(state, act, event)


def _judged(state: State, act: Act, event: Event) -> State:
    state = _told_of(state, act, event)
    after = replace(act, verified=True, trial=None)
    return state.with_act(after) if act.reversible else state.without_act(act.id)


def _useless(state: State, act: Act, event: Event, now_ms: int) -> State:
    name, _ = act.tried
    count = state.misses.get(name, 0) + 1
    state = _told_of(replace(state, misses={**state.misses, name: count}), act, event)
    if count >= MOST_MISSES:
        state = _latch(state, act, f"it did not help {count} times in a row", now_ms)
    others = tuple(claim for claim in act.claims if claim.remedy != name)
    if act.trial is None or not others:
        return _failed(state, act, event, now_ms)
    # What had been tightened goes back to what it was held at before, and not further.
    return _marked(state, act).with_act(replace(act, claims=others, verified=True, trial=None))


def _told_of(state: State, act: Act, event: Event) -> State:
    """What the verdict says is what the remedy's last effect is known as."""
    words = "; ".join(filter(None, (event.says, WORDS[event.kind])))
    return replace(state, effects={**state.effects, act.tried[0]: words})


def _retuning(state: State, act: Act, event: Event, now_ms: int) -> State:
    known = act.ours if event.value is None or event.value in act.ours else (*act.ours, event.value)
    return state.with_act(replace(act, ours=known, before=act.before or event.before))


def _retuned(state: State, act: Act, event: Event, now_ms: int) -> State:
    return state.with_act(replace(act, ours=act.ours if event.value is None else (event.value,)))


def _taken_over(state: State, act: Act, event: Event, now_ms: int) -> State:
    """Somebody else has changed what we hold: hands off, or two would fight over it."""
    why = f"{act.resource} was changed by someone else"
    return _latch(state, replace(act, trial=None), why, now_ms).without_act(act.id)


Change = Callable[[State, Act, Event, int], State]

LIFE: Mapping[tuple[Phase, Kind], Change] = {
    (Phase.STARTED, Kind.REFUSED): _refused,
    (Phase.STARTED, Kind.INTENDED): _intended,
    (Phase.STARTED, Kind.FAILED): _failed,
    (Phase.STARTED, Kind.UNKNOWN): _failed,  # a plan touches nothing
    (Phase.STARTED, Kind.INTERRUPTED): _ended,
    (Phase.WRITING, Kind.REFUSED): _refused,  # what stopped it came between the plan and the write
    (Phase.WRITING, Kind.DID): _did,
    (Phase.WRITING, Kind.FAILED): _failed,
    (Phase.WRITING, Kind.UNKNOWN): _unknown,
    (Phase.WRITING, Kind.CHANGED): _taken_over,  # between the plan and the write: it was not written
    (Phase.WRITING, Kind.INTERRUPTED): _interrupted_write,
    (Phase.HELD, Kind.HELPED): _helped,
    (Phase.HELD, Kind.USELESS): _useless,
    (Phase.HELD, Kind.UNJUDGED): _unjudged,
    (Phase.HELD, Kind.RETUNING): _retuning,
    (Phase.HELD, Kind.RETUNED): _retuned,
    (Phase.HELD, Kind.FAILED): _unchanged,  # a renewal that failed: the lease ends by itself, or the next one renews it
    (Phase.HELD, Kind.UNKNOWN): _unchanged,  # the same
    (Phase.HELD, Kind.CHANGED): _taken_over,
    (Phase.HELD, Kind.INTERRUPTED): _unchanged,  # its alerts say whether it stays
    (Phase.RELEASING, Kind.RESTORED): _ended,
    (Phase.RELEASING, Kind.CHANGED): _ended,
    (Phase.RELEASING, Kind.FAILED): _unchanged,  # tried again until it is put back
    (Phase.RELEASING, Kind.UNKNOWN): _unchanged,  # the same
    (Phase.RELEASING, Kind.INTERRUPTED): _unchanged,
}
"""The whole life of an act; what is not in here cannot happen, and changes nothing."""


def pause(state: State, name: str) -> State:
    """Nothing is begun while a pause of any name stands."""
    return state if name in state.pauses else replace(state, pauses=(*state.pauses, name))


def resume(state: State, name: str | None, now_ms: int) -> State:
    """Lifts a pause, or a remedy's latch, or all of both; what waited meanwhile must show its evidence anew."""
    latched = {latch.remedy for latch in state.latches if name in (None, latch.remedy)}
    resumed = {**state.resumed_ms, **dict.fromkeys(latched, now_ms)}
    return replace(
        state,
        pauses=tuple(pause for pause in state.pauses if name not in (None, pause)),
        latches=tuple(latch for latch in state.latches if latch.remedy not in latched),
        misses={remedy: count for remedy, count in state.misses.items() if remedy not in latched},
        sessions=tuple(
            replace(each, attempts=0, told="") if each.remedy in latched or HOST in latched else each
            for each in state.sessions
        ),
        resumed_ms=resumed,
    )


def _latch(state: State, act: Act, why: str, now_ms: int) -> State:
    name, labels = act.tried
    if act.observed or any(latch.remedy == name for latch in state.latches):
        return state
    return replace(state, latches=(*state.latches, Latch(name, labels, now_ms, why)))


def _marked(state: State, act: Act, *, failed: bool = True) -> State:
    """The alert's session knows how its newest act ended."""
    for session in state.sessions:
        if (session.remedy, session.labels) == act.tried:
            return with_session(state, replace(session, failed=failed))
    return state


def with_session(state: State, session: Session) -> State:
    """The same with one session changed."""
    mine = (session.remedy, session.labels)
    return replace(
        state, sessions=tuple(session if (each.remedy, each.labels) == mine else each for each in state.sessions)
    )


def _entry(at_ms: int, act: Act, event: Event) -> Entry:
    """A line of the audit about an event, with what was measured where something was."""
    before = event.before if event.kind is Kind.INTENDED else act.before if event.after is not None else None
    words = before.words if event.kind is Kind.INTENDED and before is not None else ""
    says = f"{event.says}; before: {words}" if words else event.says
    entry = entry_of(at_ms, act, event.kind.value, says)._replace(before=before, after=event.after)
    if event.kind not in WORDS:
        return entry
    remedy, labels = act.tried
    return entry._replace(remedy=remedy, labels=labels)


def entry_of(at_ms: int, act: Act, what: str, says: str) -> Entry:
    """A line of the audit about an act."""
    return Entry(at_ms, act.remedy, act.labels, act.resource, what, says, act.observed, act.id)
