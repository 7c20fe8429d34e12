"""
Compares pacing with the firmware's throttling: the speed at the set point against the speed that throttling leaves.

A hotter DIMM may work more, and firmware lets it run hotter than any set point below its limit. So throttling wins by a
little where it takes no more speed than heat, unless refreshing twice as often costs more. Where it takes more speed
than heat (an engine was seen at half its speed while its DIMMs stayed hot), holding the DIMM just below its limit is
faster. A host on which neither leaves much needs air.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from agent.pacing.settings import ControlSettings
from agent.pacing.thermal_model import Plant

HYSTERESIS = 0.03  # the least advantage for which the choice changes


class Benefit(NamedTuple):
    """Shares of full speed."""

    paced_share: float
    """The share left by pacing at the set point."""
    throttled_share: float
    """The share left by the firmware's throttling."""

    def pays(self, previous: bool | None = None) -> bool:
        """True if pacing leaves more; the previous choice stays within HYSTERESIS."""
        margin = 0.0 if previous is None else -HYSTERESIS if previous else HYSTERESIS
        return self.paced_share > self.throttled_share + margin


def estimate_benefit(
    plant: Plant, settings: ControlSettings, set_point: float, throttled_speed: float | None = None
) -> Benefit:
    """Compares both at a set point; `throttled_speed` is the share of speed measured under the firmware, if known."""
    throttled = compute_throttled_share(plant, settings)
    return Benefit(
        compute_paced_share(plant, set_point),
        throttled if throttled_speed is None or throttled == 1 else min(1.0, throttled_speed),
    )


def compute_paced_share(plant: Plant, set_point: float) -> float:
    """Returns the share of time worked at which the DIMM ends at the set point, 0 to 1."""
    return min(1.0, max(0.0, (plant.idle - set_point) / plant.gain))


def compute_throttled_share(plant: Plant, settings: ControlSettings) -> float:
    """
    Returns the share of full speed that the firmware's steps leave an engine that always works.

    The DIMM stays at the first step that keeps it below the next one. If that cools it so far that the step is released
    again, the two alternate around the middle of the hysteresis.
    """
    if plant.headroom(1.0) > 0:
        return 1.0
    headroom, share = _find_equilibrium(plant, settings)
    return share * (1 - settings.refresh) if headroom < 0 else share


def _find_equilibrium(plant: Plant, settings: ControlSettings) -> tuple[float, float]:
    """Returns the final headroom of a DIMM that firmware throttles, and the share of its heat that is left."""
    previous = share = 1.0
    for (threshold, share), (next_threshold, _) in pairwise((*settings.throttle, (math.inf, 0.0))):
        headroom = plant.headroom(share)
        if -headroom < next_threshold:
            if headroom <= settings.release - threshold:
                return headroom, share
            midpoint = settings.release / 2 - threshold
            return midpoint, min(previous, max(share, compute_paced_share(plant, midpoint)))
        previous = share
    return plant.headroom(share), share
