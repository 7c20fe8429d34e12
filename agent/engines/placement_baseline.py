"""
Learns the nodes of each engine's memory while the engine is fast, and measures the drift from there.

`agent/engines/baseline.py` chooses the observations: those that it learns speeds from, without speeds far below the
baseline. So memory that drifts and costs speed never becomes normal, and memory that an operator moved without cost
becomes normal within the hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

MIN_OBSERVATIONS = 60  # observations before drift is reported: five minutes, one every five seconds, as for speeds
HOUR_OBSERVATIONS = 720  # observations, one every five seconds; older ones count less and less

Shares = Mapping[str, float]
"""Share of the resident pages by node; the shares of all nodes add up to 1."""


class ProcessKey(NamedTuple):
    """The engine process that the memory belongs to."""

    engine: str
    model: str
    rank: str


class MeanShares(msgspec.Struct):
    """The mean shares of a number of observations."""

    observations: int = msgspec.field(name="seen")
    shares: dict[str, float]


class PlacementBaseline:
    """The learnt placement of all engine processes."""

    def __init__(self) -> None:
        self._means: dict[ProcessKey, MeanShares] = {}

    def restore(self, stored: Mapping[str, MeanShares]) -> None:
        """Restores the result of `dump`; raises TypeError if a key has the wrong shape."""
        self._means = {ProcessKey(*key.split("\x1f")): mean for key, mean in stored.items() if _is_valid(mean)}

    def dump(self) -> dict[str, MeanShares]:
        """Returns the learnt placement of all processes, for the next start."""
        return {"\x1f".join(key): mean for key, mean in self._means.items()}

    def observe(self, key: ProcessKey, shares: Shares) -> None:
        """Adds one observation to the mean."""
        mean = self._means.setdefault(key, MeanShares(0, {}))
        mean.observations = min(mean.observations + 1, HOUR_OBSERVATIONS)
        for node in mean.shares.keys() | shares.keys():
            previous = mean.shares.get(node, 0.0)
            mean.shares[node] = previous + (shares.get(node, 0.0) - previous) / mean.observations

    def measure_drift(self, key: ProcessKey, shares: Shares) -> float | None:
        """Returns the share of pages away from their usual node, 0 to 1; None while the placement is being learnt."""
        mean = self._means.get(key)
        if mean is None or mean.observations < MIN_OBSERVATIONS:
            return None
        nodes = mean.shares.keys() | shares.keys()
        return sum(abs(mean.shares.get(node, 0.0) - shares.get(node, 0.0)) for node in nodes) / 2


def _is_valid(mean: MeanShares) -> bool:
    return 0 < mean.observations <= HOUR_OBSERVATIONS and all(0 <= share <= 1 for share in mean.shares.values())
