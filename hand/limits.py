"""How often each verb may be used: the hand's own bounds, whatever the agent believes its own to be."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

from hand.errors import LimitedError


class Limit(NamedTuple):
    """At most so many times within so many seconds."""

    times: int
    seconds: float


class Limits:
    """What was done lately."""

    def __init__(self) -> None:
        self._done: dict[str, deque[float]] = defaultdict(deque)

    def take(self, verb: str, limit: Limit, now: float) -> None:
        """Counts one use; LimitedError where it is one too many. `now` is monotonic, in seconds."""
        done = self._done[verb]
        while done and done[0] <= now - limit.seconds:
            done.popleft()
        if len(done) >= limit.times:
            again = done[0] + limit.seconds - now
            raise LimitedError(
                f"{verb} was used {len(done)} times within {limit.seconds:g} s; it may be used again in {again:.0f} s"
            )
        done.append(now)
