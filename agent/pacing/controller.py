"""
The control law: from state, inputs and seconds to the next state, whose `duty` the engine is allowed. Pure.

A PI loop on the hottest DIMM, tuned by lambda from the learnt plant: its closed loop is half as slow as the DIMM
itself, and never faster than three times the delay of the sensor. It moves the share of time *worked*. The duty is that
share over the engine's load: a half-busy engine is not held back, and a full one is at once (the feed-forward). The
integral stands still while duty, slew or load keep it from having an effect, and stays within 0 to 1: there is nothing
to wind up.

Without a reading the duty stays for a while and then falls to the safe one; it never rises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from agent.pacing.benefit import Benefit, estimate_benefit
from agent.pacing.settings import MIN_DUTY, ControlSettings
from agent.pacing.thermal_model import PRIOR, Plant

STEP_SECONDS = 5.0  # seconds between two steps: sensors are no faster, and each move is written to the journal
MAX_STEP_SECONDS = 30.0  # seconds that one step may count for, after the agent stood still
SMOOTHING_SECONDS = 10.0  # seconds of the filter that smooths a sensor's steps
DELAY_SECONDS = 10.0  # seconds from heat to reading, besides the sensor's own interval
MIN_MOVE = 0.01  # the least move that is worth a request
LOST_DIMM_SECONDS = 900.0  # seconds after which a silent DIMM counts as removed
PLAUSIBLE_HEADROOM = (-40.0, 100.0)  # °C of headroom; a sensor beyond is broken

Mode = Literal["learns", "holds", "full", "needs air", "blind", "lost"]


class ControlInputs(NamedTuple):
    """The inputs of one step; None for what is not known."""

    headroom: Mapping[str, float]
    """°C below its limit, for each DIMM."""
    load: float | None = None
    """The share of time in which the engine had any request."""
    period: float = 2.0
    """Seconds between two readings of the hottest DIMM."""
    plant: Plant | None = None
    speed: float | None = None
    """The share of its speed that the engine had under the firmware's throttling."""


@dataclass(frozen=True)
class ControllerState:
    """The memory of the controller, and all that it exposes."""

    duty: float
    """The duty that the engine is allowed."""
    exact: float
    """The duty before it is rounded to a move that is worth a request."""
    integral: float
    """The integral's part of the share worked."""
    mode: Mode = "learns"
    dimm: str = ""
    """The hottest DIMM at the last reading."""
    headroom: float | None = None
    """The smoothed headroom of that DIMM."""
    set_point: float = 0.0
    """The headroom that is to be held."""
    error: float = 0.0
    """°C by which the DIMM is cooler than the set point; below 0 it is too hot."""
    blind: float = 0.0
    """Seconds since a reading."""
    crossed: bool = False
    """True from reaching the limit until the firmware lets go."""
    plant: Plant | None = None
    benefit: Benefit | None = None
    pays: bool | None = None


def begin_state(duty: float) -> ControllerState:
    """Returns the first state of an act, or of one adopted after a restart; it starts at the current duty."""
    return ControllerState(duty=duty, exact=duty, integral=duty)


def step(state: ControllerState, inputs: ControlInputs, settings: ControlSettings, seconds: float) -> ControllerState:
    """Returns the state `seconds` later."""
    seconds = min(max(seconds, 0.0), MAX_STEP_SECONDS)
    hottest = _find_hottest(state, inputs)
    if hottest is None:
        return _hold_blind(state, settings, seconds)
    state = _update_measurement(state, hottest, settings, seconds)
    state = _update_benefit(state, inputs, settings)
    return _move_duty(state, inputs, settings, seconds)


def fail_safe(state: ControllerState, settings: ControlSettings, seconds: float, mode: Mode) -> ControllerState:
    """Falls to the safe duty, at the slew; a lower duty stays, because the DIMM was hot at that duty."""
    goal = min(state.exact, settings.safe)
    exact = max(goal, state.exact - settings.slew * min(max(seconds, 0.0), MAX_STEP_SECONDS))
    return replace(_apply_duty(state, exact), integral=min(state.integral, exact), mode=mode)


def _find_hottest(state: ControllerState, inputs: ControlInputs) -> tuple[str, float] | None:
    """
    Returns the DIMM with the least headroom.

    None also if the DIMM that was hottest is silent, unless another is as hot: its cooler neighbours would raise the
    duty.
    """
    credible = {
        dimm: value
        for dimm, value in inputs.headroom.items()
        if PLAUSIBLE_HEADROOM[0] <= value <= PLAUSIBLE_HEADROOM[1]
    }
    if not credible:
        return None
    dimm = min(credible, key=lambda name: credible[name])
    hottest_gone = bool(state.dimm) and state.dimm not in credible and state.blind < LOST_DIMM_SECONDS
    if hottest_gone and state.headroom is not None and credible[dimm] > state.headroom:
        return None
    return dimm, credible[dimm]


def _hold_blind(state: ControllerState, settings: ControlSettings, seconds: float) -> ControllerState:
    state = replace(state, blind=state.blind + seconds)
    if state.blind <= settings.patience:
        return replace(state, mode="blind")
    return fail_safe(state, settings, seconds, "blind")


def _update_measurement(
    state: ControllerState, hottest: tuple[str, float], settings: ControlSettings, seconds: float
) -> ControllerState:
    dimm, reading = hottest
    previous = reading if state.headroom is None or state.blind else state.headroom
    headroom = reading + (previous - reading) * math.exp(-seconds / SMOOTHING_SECONDS)
    crossed = reading <= settings.release if state.crossed else reading <= 0
    set_point = max(settings.margin, settings.release + 1) if crossed else settings.margin
    return replace(
        state, dimm=dimm, headroom=headroom, crossed=crossed, set_point=set_point, error=headroom - set_point, blind=0.0
    )


def _update_benefit(state: ControllerState, inputs: ControlInputs, settings: ControlSettings) -> ControllerState:
    if inputs.plant is None:
        return replace(state, plant=None, benefit=None, pays=None, mode="learns")
    # Uses the final set point, not the release threshold of the firmware's throttling.
    benefit = estimate_benefit(inputs.plant, settings, settings.margin, inputs.speed)
    return replace(state, plant=inputs.plant, benefit=benefit, pays=benefit.pays(state.pays), mode="holds")


def _move_duty(
    state: ControllerState, inputs: ControlInputs, settings: ControlSettings, seconds: float
) -> ControllerState:
    load = 1.0 if inputs.load is None else min(1.0, max(inputs.load, 0.0))
    if state.pays is False and not settings.always:
        exact, _ = _slew(state.exact, 1.0, settings, seconds)
        return replace(_apply_duty(state, exact), mode="needs air")
    proportional, integral_time = tune_gains(inputs.plant or PRIOR, inputs.period)
    error = state.error if state.error < 0 else max(0.0, state.error - settings.cool_band)
    share = proportional * error + state.integral
    goal = min(1.0, max(settings.lowest, share / max(load, settings.lowest)))
    exact, free = _slew(state.exact, goal, settings, seconds)
    pushes_up = error > 0 and (exact >= 1.0 or load * exact < share - MIN_MOVE / 10)
    pushes_down = error < 0 and exact <= settings.lowest
    integral = state.integral
    if free and not (pushes_up or pushes_down):
        integral = min(1.0, max(0.0, integral + proportional * error * seconds / integral_time))
    state = _apply_duty(replace(state, integral=integral), exact)
    return replace(state, mode="full" if state.duty >= 1 else state.mode)


def tune_gains(plant: Plant, period: float) -> tuple[float, float]:
    """Returns the gain (share of the time for a °C) and integral time (s) of the PI."""
    delay = period + DELAY_SECONDS
    closed_loop = max(plant.time_constant / 2, 3 * delay)
    return plant.time_constant / (plant.gain * (closed_loop + delay)), plant.time_constant


def _slew(current: float, goal: float, settings: ControlSettings, seconds: float) -> tuple[float, bool]:
    """Returns the next duty, and True if the slew let it reach the goal."""
    max_change = settings.slew * seconds
    moved = current + min(max_change, max(-max_change, goal - current))
    return moved, abs(moved - goal) < 1e-9


def _apply_duty(state: ControllerState, exact: float) -> ControllerState:
    """Moves the engine's duty once the difference is worth a request, and at both ends."""
    significant = exact >= 1.0 or exact <= MIN_DUTY or abs(exact - state.duty) >= MIN_MOVE
    return replace(state, exact=exact, duty=round(exact, 2) if significant else state.duty)
