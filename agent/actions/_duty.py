"""The duty of an engine that no controller adjusts: for pace and freeze."""

from __future__ import annotations

from agent.actions import Moment

FULL_DUTY = 1.0
SAFE_DUTY = 0.5  # the duty that is approached while the alert's evidence is lost
RAMP_STEP = 0.02  # the change of the duty at each tick: from full speed to SAFE_DUTY in half a minute


def steer_fixed_duty(duty: float, moment: Moment) -> float:
    """
    Returns the configured duty while there is evidence.

    Without evidence the duty falls to SAFE_DUTY by steps and never rises: the DIMM was hot at that duty.
    """
    held_duty = float(moment.held)
    return round(max(min(held_duty, SAFE_DUTY), held_duty - RAMP_STEP), 4) if moment.lost else duty
