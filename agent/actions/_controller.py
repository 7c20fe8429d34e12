"""The controllers of one act: what is remembered from tick to tick, and the sentence that people are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.actions import Steered
from agent.pacing import controller
from agent.pacing.controller import Seen, State
from agent.pacing.settings import Terms


@dataclass(frozen=True)
class Steering(Steered):
    """One controller between two looks."""

    at_ms: int
    """When it looked last."""
    state: State


def looked(
    before: Steering | None, held: float, now_ms: int, terms: Terms, name: str, see: Callable[[], Seen], *, lost: bool
) -> Steering:
    """
    The controller at `now_ms`; the same as before until a look is due.

    `held` is what the engine is held at, for a controller that has just begun; `see` is asked when it looks.
    """
    if before is not None and 0 <= now_ms - before.at_ms < 1000 * controller.EVERY:
        return before
    seconds = controller.EVERY if before is None else (now_ms - before.at_ms) / 1000
    if seconds < 0:  # the wall clock was set back
        seconds = controller.EVERY
    state = controller.begun(held) if before is None else before.state
    state = (
        controller.fail_safe(state, terms, seconds, "lost") if lost else controller.step(state, see(), terms, seconds)
    )
    return Steering(_reason(state), told(state, name, terms), now_ms, state)


def _reason(state: State) -> str:
    """What is worth a line in the audit when it changes: that a held engine is now and then at full speed is not."""
    return "holds" if state.mode == "full" else state.mode


def told(state: State, name: str, terms: Terms) -> str:
    """How and why an engine is held, in one sentence."""
    match state.mode:
        case "lost":
            return f"{_pace(state, name)}: the alert's evidence is lost, {_safe(state, terms)}"
        case "blind":
            of = f"of {state.dimm} " if state.dimm else ""
            return f"{_pace(state, name)}: no reading {of}for {state.blind:.0f} s, {_safe(state, terms)}"
        case "needs air":
            return f"{name} needs air and is not paced: {_compared(state, terms)}"
        case "learns":
            return f"{_pace(state, name)}: {_measured(state)}; how much it heats is not learnt yet"
    return f"{_pace(state, name)}: {_measured(state)}{_ahead(state)}"


def _pace(state: State, name: str) -> str:
    return f"{name} at full speed" if state.duty >= 1 else f"{name} at a duty of {state.duty:.2f}"


def _safe(state: State, terms: Terms) -> str:
    below = state.duty <= terms.safe
    return "so it stays as it is" if below else f"so it goes to the safe duty of {terms.safe:g} unless that changes"


def _measured(state: State) -> str:
    room = 0.0 if state.headroom is None else state.headroom
    where = f"{room:.1f} °C below its limit" if room >= 0 else f"{-room:.1f} °C above its limit"
    return f"{state.dimm or 'the hottest DIMM'} is {where}, wanted {state.wanted:g} below"


def _compared(state: State, terms: Terms) -> str:
    if state.worth is None:
        return "nothing is predicted"
    return (
        f"holding {state.dimm or 'its hottest DIMM'} {terms.margin:g} °C below its limit would leave "
        f"{state.worth.held:.0%} of its speed, the firmware's throttling leaves {state.worth.throttled:.0%}"
    )


def _ahead(state: State) -> str:
    if state.plant is None or state.worth is None:
        return ""
    room = state.plant.headroom(1.0)
    end = f"{-room:.0f} °C above it, with {state.worth.throttled:.0%} left" if room <= 0 else f"{room:.0f} °C below it"
    return f"; unpaced it would end {end}"
