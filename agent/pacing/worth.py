"""
Whether pacing is worth it: the duty that holds the set point against what the firmware's throttling leaves.

Firmware lets a DIMM run at its limit, hotter than any set point below it; where its steps are small it therefore wins,
and pacing only adds a delay. Where they are coarse, or where refreshing twice as often takes its part, holding the DIMM
just below is faster. A host on which neither leaves much needs air. No peer is known to have measured this.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.pacing.plant import Plant
from agent.pacing.terms import Terms

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
    """`wanted`: the headroom to be held; `seen`: the share of its speed that the engine reached above the limit."""
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
    before = left = 1.0
    for number, (over, left) in enumerate(terms.throttle):
        following = terms.throttle[number + 1][0] if number + 1 < len(terms.throttle) else float("inf")
        above = -plant.headroom(left)
        if above < following:
            if above < over - terms.release:
                left = min(before, max(left, holding(plant, terms.release / 2 - over)))
            break
        before = left
    return left * (1 - terms.refresh)
