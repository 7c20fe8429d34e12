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

ENOUGH = 60  # observations before a drift is told: five minutes, one each five seconds, as of a baseline
HOUR = 720  # observations, one each five seconds: what is older counts ever less

Shares = Mapping[str, float]
"""Share of the resident pages by node; the shares of all nodes add up to 1."""


class Whose(NamedTuple):
    """The process whose memory it is."""

    engine: str
    model: str
    rank: str


class Learnt(msgspec.Struct):
    """The mean of so many observations."""

    seen: int
    shares: dict[str, float]


class Placement:
    """What has been learnt of all engine processes."""

    def __init__(self) -> None:
        self._learnt: dict[Whose, Learnt] = {}

    def restore(self, stored: Mapping[str, Learnt]) -> None:
        """Takes back what `stored` gave; raises TypeError where it is another's."""
        self._learnt = {Whose(*key.split("\x1f")): learnt for key, learnt in stored.items() if _sound(learnt)}

    def stored(self) -> dict[str, Learnt]:
        """All of it, to be given to the next start."""
        return {"\x1f".join(whose): learnt for whose, learnt in self._learnt.items()}

    def observe(self, whose: Whose, shares: Shares) -> None:
        """Takes one placement into the mean."""
        learnt = self._learnt.setdefault(whose, Learnt(0, {}))
        learnt.seen = min(learnt.seen + 1, HOUR)
        for node in learnt.shares.keys() | shares.keys():
            before = learnt.shares.get(node, 0.0)
            learnt.shares[node] = before + (shares.get(node, 0.0) - before) / learnt.seen

    def drift(self, whose: Whose, shares: Shares) -> float | None:
        """The share of the pages that are not on the node where they used to be, 0 to 1; None while it is learnt."""
        learnt = self._learnt.get(whose)
        if learnt is None or learnt.seen < ENOUGH:
            return None
        nodes = learnt.shares.keys() | shares.keys()
        return sum(abs(learnt.shares.get(node, 0.0) - shares.get(node, 0.0)) for node in nodes) / 2


def _sound(learnt: Learnt) -> bool:
    return 0 < learnt.seen <= HOUR and all(0 <= share <= 1 for share in learnt.shares.values())
