"""Limits how often each verb may be used, independently of the agent's own limits."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

from hand.errors import LimitExceededError


class RateLimit(NamedTuple):
    """Permits `times` uses within `seconds`."""

    times: int
    seconds: float


class RateLimiter:
    """Counts the recent uses of each verb."""

    def __init__(self) -> None:
        self._uses: dict[str, deque[float]] = defaultdict(deque)

    def count_use(self, verb: str, limit: RateLimit, now: float) -> None:
        """Counts one use; raises LimitExceededError beyond the limit. `now` is monotonic, in seconds."""
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
