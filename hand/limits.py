"""How often each verb may be used: the hand's own bounds, whatever the agent believes its own to be."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

from hand.errors import LimitExceededError


class RateLimit(NamedTuple):
    """At most so many times within so many seconds."""

    times: int
    seconds: float


class RateLimiter:
    """What was done lately."""

    def __init__(self) -> None:
        self._uses: dict[str, deque[float]] = defaultdict(deque)

    def count_use(self, verb: str, limit: RateLimit, now: float) -> None:
        """Counts one use; LimitedError where it is one too many. `now` is monotonic, in seconds."""
        uses = self._uses[verb]
        while uses and uses[0] <= now - limit.seconds:
            uses.popleft()
        if len(uses) >= limit.times:
            retry_after = uses[0] + limit.seconds - now
            raise LimitExceededError(
                f"{verb} was used {len(uses)} times within {limit.seconds:g} s; it may be used again in "
                f"{retry_after:.0f} s"
            )
        uses.append(now)
