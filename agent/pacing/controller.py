"""
The law: (state, what is seen, seconds) to the state after, whose `duty` is what the engine is allowed. Pure.

A PI loop on the hottest DIMM, tuned by lambda from what is known of the plant: its closed loop is half as slow as the
DIMM itself, and never faster than three times the delay of the sensor. What it moves is the share of time *worked*; the
duty is that over the engine's load, so that a half-busy engine is not held back and a full one is at once (the
feed-forward). The integral stands still where duty, slew or load keep it from having an effect, and never leaves 0 to
1: there is nothing to wind up.

Without a reading the duty stays for a while and then falls to the safe one, and it never rises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from agent.pacing.benefit import Worth, worth
from agent.pacing.settings import LOWEST, Terms
from agent.pacing.thermal_model import PRIOR, Plant

EVERY = 5.0  # seconds between two looks: sensors are no faster, and each move is written to the journal
LONGEST = 30.0  # seconds that one look may count for, after the agent stood still
SMOOTHING = 10.0  # seconds of the filter that takes a sensor's steps off
DELAY = 10.0  # seconds from heat to reading, besides the sensor's own interval
GRAIN = 0.01  # the least move that is worth a request
LOST_DIMM = 900.0  # seconds after which a DIMM that fell silent counts as gone
PLAUSIBLE = (-40.0, 100.0)  # °C of headroom; beyond is a broken sensor

Mode = Literal["learns", "holds", "full", "needs air", "blind", "lost"]


class Seen(NamedTuple):
    """What is known at one moment; None where it is not."""

    headroom: Mapping[str, float]
    """Of each DIMM, °C below its limit."""
    load: float | None = None
    """The share of time in which the engine had anything to do."""
    period: float = 2.0
    """Seconds between two readings of the hottest DIMM."""
    plant: Plant | None = None
    speed: float | None = None
    """The share of its speed that the engine had while it was left to the firmware."""


@dataclass(frozen=True)
class State:
    """Everything that the controller remembers, and all that it shows."""

    duty: float
    """What is allowed now."""
    exact: float
    """The same before it is rounded to a move that is worth a request."""
    integral: float
    """The integral's part of the share worked."""
    mode: Mode = "learns"
    dimm: str = ""
    """The hottest DIMM when one was last seen."""
    headroom: float | None = None
    """Its headroom, smoothed."""
    wanted: float = 0.0
    """The set point: the headroom that is to be held."""
    error: float = 0.0
    """How much cooler than wanted it is, in °C; below 0 it is too hot."""
    blind: float = 0.0
    """Seconds since a reading."""
    crossed: bool = False
    """The limit was reached, and the firmware has not let go since."""
    plant: Plant | None = None
    worth: Worth | None = None
    pays: bool | None = None


def begun(duty: float) -> State:
    """The state with which an act begins, or goes on after a restart: no bump, whatever the duty is."""
    return State(duty=duty, exact=duty, integral=duty)


def step(state: State, seen: Seen, terms: Terms, seconds: float) -> State:
    """The state `seconds` later."""
    seconds = min(max(seconds, 0.0), LONGEST)
    hottest = _hottest(state, seen)
    if hottest is None:
        return _blind(state, terms, seconds)
    state = _measured(state, hottest, terms, seconds)
    state = _judged(state, seen, terms)
    return _moved(state, seen, terms, seconds)


def fail_safe(state: State, terms: Terms, seconds: float, mode: Mode) -> State:
    """Falls to the safe duty, at the slew; one that is lower stays, since what it held is still hot."""
    goal = min(state.exact, terms.safe)
    exact = max(goal, state.exact - terms.slew * min(max(seconds, 0.0), LONGEST))
    return replace(_told(state, exact), integral=min(state.integral, exact), mode=mode)


def _hottest(state: State, seen: Seen) -> tuple[str, float] | None:
    """
    The DIMM with the least headroom.

    None also where the one that was hottest has fallen silent, unless another is as hot: its neighbours, which are
    cooler, would have the duty raised.
    """
    credible = {dimm: value for dimm, value in seen.headroom.items() if PLAUSIBLE[0] <= value <= PLAUSIBLE[1]}
    if not credible:
        return None
    dimm = min(credible, key=lambda name: credible[name])
    gone = bool(state.dimm) and state.dimm not in credible and state.blind < LOST_DIMM
    if gone and state.headroom is not None and credible[dimm] > state.headroom:
        return None
    return dimm, credible[dimm]


def _blind(state: State, terms: Terms, seconds: float) -> State:
    state = replace(state, blind=state.blind + seconds)
    if state.blind <= terms.patience:
        return replace(state, mode="blind")
    return fail_safe(state, terms, seconds, "blind")


def _measured(state: State, hottest: tuple[str, float], terms: Terms, seconds: float) -> State:
    dimm, now = hottest
    before = now if state.headroom is None or state.blind else state.headroom
    headroom = now + (before - now) * math.exp(-seconds / SMOOTHING)
    crossed = now <= terms.release if state.crossed else now <= 0
    wanted = max(terms.margin, terms.release + 1) if crossed else terms.margin
    return replace(
        state, dimm=dimm, headroom=headroom, crossed=crossed, wanted=wanted, error=headroom - wanted, blind=0.0
    )


def _judged(state: State, seen: Seen, terms: Terms) -> State:
    if seen.plant is None:
        return replace(state, plant=None, worth=None, pays=None, mode="learns")
    # By the set point that is held in the end, and not by the one below which the firmware lets go.
    found = worth(seen.plant, terms, terms.margin, seen.speed)
    return replace(state, plant=seen.plant, worth=found, pays=found.pays(state.pays), mode="holds")


def _moved(state: State, seen: Seen, terms: Terms, seconds: float) -> State:
    load = 1.0 if seen.load is None else min(1.0, max(seen.load, 0.0))
    if state.pays is False and not terms.always:
        exact, _ = _slewed(state.exact, 1.0, terms, seconds)
        return replace(_told(state, exact), mode="needs air")
    proportional, integral_time = tuned(seen.plant or PRIOR, seen.period)
    error = state.error if state.error < 0 else max(0.0, state.error - terms.cool_band)
    share = proportional * error + state.integral
    goal = min(1.0, max(terms.lowest, share / max(load, terms.lowest)))
    exact, free = _slewed(state.exact, goal, terms, seconds)
    pushes_up = error > 0 and (exact >= 1.0 or load * exact < share - GRAIN / 10)
    pushes_down = error < 0 and exact <= terms.lowest
    integral = state.integral
    if free and not (pushes_up or pushes_down):
        integral = min(1.0, max(0.0, integral + proportional * error * seconds / integral_time))
    state = _told(replace(state, integral=integral), exact)
    return replace(state, mode="full" if state.duty >= 1 else state.mode)


def tuned(plant: Plant, period: float) -> tuple[float, float]:
    """Gain (share of the time for a °C) and integral time (s) of the PI."""
    delay = period + DELAY
    closed_loop = max(plant.time_constant / 2, 3 * delay)
    return plant.time_constant / (plant.gain * (closed_loop + delay)), plant.time_constant


def _slewed(now: float, goal: float, terms: Terms, seconds: float) -> tuple[float, bool]:
    """The next duty, and whether the slew let it get there."""
    most = terms.slew * seconds
    moved = now + min(most, max(-most, goal - now))
    return moved, abs(moved - goal) < 1e-9


def _told(state: State, exact: float) -> State:
    """Moves what the engine is told once the difference is worth it, and at the ends."""
    worth_it = exact >= 1.0 or exact <= LOWEST or abs(exact - state.duty) >= GRAIN
    return replace(state, exact=exact, duty=round(exact, 2) if worth_it else state.duty)
