"""The controllers of a pace act: their memory from tick to tick, and the sentence that people read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.actions import Steered
from agent.pacing import controller
from agent.pacing.controller import ControlInputs, ControllerState
from agent.pacing.settings import ControlSettings


@dataclass(frozen=True)
class PaceController(Steered):
    """A controller between two of its steps."""

    at_ms: int
    """The time of its last step."""
    state: ControllerState


def update_controller(
    previous: PaceController | None,
    held_duty: float,
    now_ms: int,
    settings: ControlSettings,
    name: str,
    read_inputs: Callable[[], ControlInputs],
    *,
    lost: bool,
) -> PaceController:
    """
    Returns the controller at `now_ms`, unchanged until its next step is due.

    A new controller begins at `held_duty`. `read_inputs` is called at each step.
    """
    if previous is not None and 0 <= now_ms - previous.at_ms < 1000 * controller.STEP_SECONDS:
        return previous
    seconds = controller.STEP_SECONDS if previous is None else (now_ms - previous.at_ms) / 1000
    if seconds < 0:  # the wall clock was set back
        seconds = controller.STEP_SECONDS
    state = controller.begin_state(held_duty) if previous is None else previous.state
    state = (
        controller.fail_safe(state, settings, seconds, "lost")
        if lost
        else controller.step(state, read_inputs(), settings, seconds)
    )
    return PaceController(_audit_reason(state), describe_state(state, name, settings), now_ms, state)


def _audit_reason(state: ControllerState) -> str:
    """Returns the reason whose change is a line of the audit; moments at full speed are no change."""
    return "holds" if state.mode == "full" else state.mode


def describe_state(state: ControllerState, name: str, settings: ControlSettings) -> str:
    """Returns one sentence on the duty of an engine and its reason."""
    match state.mode:
        case "lost":
            return (
                f"{_describe_pace(state, name)}: the alert's evidence is lost, {_describe_safe_duty(state, settings)}"
            )
        case "blind":
            subject = f"of {state.dimm} " if state.dimm else ""
            return (
                f"{_describe_pace(state, name)}: no reading {subject}for {state.blind:.0f} s, "
                f"{_describe_safe_duty(state, settings)}"
            )
        case "needs air":
            return f"{name} needs air and is not paced: {_describe_benefit(state, settings)}"
        case "learns":
            return f"{_describe_pace(state, name)}: {_describe_measurement(state)}; how much it heats is not learnt yet"
    return f"{_describe_pace(state, name)}: {_describe_measurement(state)}{_describe_unpaced(state)}"


def _describe_pace(state: ControllerState, name: str) -> str:
    return f"{name} at full speed" if state.duty >= 1 else f"{name} at a duty of {state.duty:.2f}"


def _describe_safe_duty(state: ControllerState, settings: ControlSettings) -> str:
    below = state.duty <= settings.safe
    return "so it stays as it is" if below else f"so it goes to the safe duty of {settings.safe:g} unless that changes"


def _describe_measurement(state: ControllerState) -> str:
    headroom = 0.0 if state.headroom is None else state.headroom
    position = f"{headroom:.1f} °C below its limit" if headroom >= 0 else f"{-headroom:.1f} °C above its limit"
    return f"{state.dimm or 'the hottest DIMM'} is {position}, wanted {state.set_point:g} below"


def _describe_benefit(state: ControllerState, settings: ControlSettings) -> str:
    if state.benefit is None:
        return "nothing is predicted"
    return (
        f"holding {state.dimm or 'its hottest DIMM'} {settings.margin:g} °C below its limit would leave "
        f"{state.benefit.paced_share:.0%} of its speed, the firmware's throttling leaves "
        f"{state.benefit.throttled_share:.0%}"
    )


def _describe_unpaced(state: ControllerState) -> str:
    if state.plant is None or state.benefit is None:
        return ""
    headroom = state.plant.headroom(1.0)
    outcome = (
        f"{-headroom:.0f} °C above it, with {state.benefit.throttled_share:.0%} left"
        if headroom <= 0
        else f"{headroom:.0f} °C below it"
    )
    return f"; unpaced it would end {outcome}"
