"""
Whether pacing is worth it: the duty that holds the set point against what the firmware's throttling leaves.

What is hotter may work more, and firmware lets a DIMM run hotter than any set point below its limit. So where
throttling takes no more speed than it takes heat, it wins, by little, unless refreshing twice as often costs more than
that. Where it takes more speed than heat (an engine was seen at half its speed while its DIMMs stayed hot), holding the
DIMM just below is faster. A host on which neither leaves much needs air.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from agent.pacing.settings import ControlSettings
from agent.pacing.thermal_model import Plant

HYSTERESIS = 0.03  # by how much one must be better for what is done to change


class Benefit(NamedTuple):
    """Shares of full speed."""

    paced_share: float
    """What is left where pacing holds the set point."""
    throttled_share: float
    """What is left where it is left to the firmware."""

    def pays(self, previous: bool | None = None) -> bool:
        """Whether pacing leaves more; what was so before stays so within DOUBT."""
        margin = 0.0 if previous is None else -HYSTERESIS if previous else HYSTERESIS
        return self.paced_share > self.throttled_share + margin


def estimate_benefit(
    plant: Plant, settings: ControlSettings, set_point: float, throttled_speed: float | None = None
) -> Benefit:
    """`wanted`: the headroom to be held; `seen`: the share of its speed that the engine had under the firmware."""
    throttled = compute_throttled_share(plant, settings)
    return Benefit(
        compute_paced_share(plant, set_point),
        throttled if throttled_speed is None or throttled == 1 else min(1.0, throttled_speed),
    )


def compute_paced_share(plant: Plant, set_point: float) -> float:
    """The share of time worked at which the DIMM ends with that headroom, 0 to 1."""
    return min(1.0, max(0.0, (plant.idle - set_point) / plant.gain))


def compute_throttled_share(plant: Plant, settings: ControlSettings) -> float:
    """
    The share of full speed that the firmware's steps leave an engine that always works.

    At the first step with which the DIMM stays below the next it stays; where that cools it so far that the step is
    released again, the two take turns around the middle of the hysteresis.
    """
    if plant.headroom(1.0) > 0:
        return 1.0
    headroom, share = _find_equilibrium(plant, settings)
    return share * (1 - settings.refresh) if headroom < 0 else share


def _find_equilibrium(plant: Plant, settings: ControlSettings) -> tuple[float, float]:
    """The headroom around which a DIMM ends that firmware throttles, and the share of its heat that is left."""
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
