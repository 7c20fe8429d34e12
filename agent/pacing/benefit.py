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

from agent.pacing.settings import Terms
from agent.pacing.thermal_model import Plant

DOUBT = 0.03  # by how much one must be better for what is done to change


class Worth(NamedTuple):
    """Shares of full speed."""

    held: float
    """What is left where pacing holds the set point."""
    throttled: float
    """What is left where it is left to the firmware."""

    def pays(self, before: bool | None = None) -> bool:
        """Whether pacing leaves more; what was so before stays so within DOUBT."""
        edge = 0.0 if before is None else -DOUBT if before else DOUBT
        return self.held > self.throttled + edge


def worth(plant: Plant, terms: Terms, wanted: float, seen: float | None = None) -> Worth:
    """`wanted`: the headroom to be held; `seen`: the share of its speed that the engine had under the firmware."""
    throttled = firmware(plant, terms)
    return Worth(holding(plant, wanted), throttled if seen is None or throttled == 1 else min(1.0, seen))


def holding(plant: Plant, wanted: float) -> float:
    """The share of time worked at which the DIMM ends with that headroom, 0 to 1."""
    return min(1.0, max(0.0, (plant.idle - wanted) / plant.gain))


def firmware(plant: Plant, terms: Terms) -> float:
    """
    The share of full speed that the firmware's steps leave an engine that always works.

    At the first step with which the DIMM stays below the next it stays; where that cools it so far that the step is
    released again, the two take turns around the middle of the hysteresis.
    """
    if plant.headroom(1.0) > 0:
        return 1.0
    room, left = _ends(plant, terms)
    return left * (1 - terms.refresh) if room < 0 else left


def _ends(plant: Plant, terms: Terms) -> tuple[float, float]:
    """The headroom around which a DIMM ends that firmware throttles, and the share of its heat that is left."""
    before = left = 1.0
    for (over, left), (following, _) in pairwise((*terms.throttle, (math.inf, 0.0))):
        room = plant.headroom(left)
        if -room < following:
            if room <= terms.release - over:
                return room, left
            turning = terms.release / 2 - over
            return turning, min(before, max(left, holding(plant, turning)))
        before = left
    return plant.headroom(left), left
