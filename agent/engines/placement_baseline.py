"""
Where each engine's memory is when the engine is as fast as it should be; and how far from there it is now.

`agent/engines/baseline.py` says when that is: what it learns speeds from, less what is much slower than the speeds it
knows. So memory that drifts away and costs speed is never taken for normal, and memory that an operator has moved, at
no cost, is within the hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

MIN_OBSERVATIONS = 60  # observations before a drift is told: five minutes, one each five seconds, as of a baseline
HOUR_OBSERVATIONS = 720  # observations, one each five seconds: what is older counts ever less

Shares = Mapping[str, float]
"""Share of the resident pages by node; the shares of all nodes add up to 1."""


class ProcessKey(NamedTuple):
    """The process whose memory it is."""

    engine: str
    model: str
    rank: str


class MeanShares(msgspec.Struct):
    """The mean of so many observations."""

    observations: int = msgspec.field(name="seen")
    shares: dict[str, float]


class PlacementBaseline:
    """What has been learnt of all engine processes."""

    def __init__(self) -> None:
        self._means: dict[ProcessKey, MeanShares] = {}

    def restore(self, stored: Mapping[str, MeanShares]) -> None:
        """Takes back what `stored` gave; raises TypeError where it is another's."""
        self._means = {ProcessKey(*key.split("\x1f")): mean for key, mean in stored.items() if _is_valid(mean)}

    def dump(self) -> dict[str, MeanShares]:
        """All of it, to be given to the next start."""
        return {"\x1f".join(key): mean for key, mean in self._means.items()}

    def observe(self, key: ProcessKey, shares: Shares) -> None:
        """Takes one placement into the mean."""
        mean = self._means.setdefault(key, MeanShares(0, {}))
        mean.observations = min(mean.observations + 1, HOUR_OBSERVATIONS)
        for node in mean.shares.keys() | shares.keys():
            previous = mean.shares.get(node, 0.0)
            mean.shares[node] = previous + (shares.get(node, 0.0) - previous) / mean.observations

    def measure_drift(self, key: ProcessKey, shares: Shares) -> float | None:
        """The share of the pages that are not on the node where they used to be, 0 to 1; None while it is learnt."""
        mean = self._means.get(key)
        if mean is None or mean.observations < MIN_OBSERVATIONS:
            return None
        nodes = mean.shares.keys() | shares.keys()
        return sum(abs(mean.shares.get(node, 0.0) - shares.get(node, 0.0)) for node in nodes) / 2


def _is_valid(mean: MeanShares) -> bool:
    return 0 < mean.observations <= HOUR_OBSERVATIONS and all(0 <= share <= 1 for share in mean.shares.values())
