"""
Holding the engine back: duty is the share of wall time that may be worked.

Memory power follows bytes streamed per second, so fewer passes per second cool; fewer clients do not.
All work is charged, prefill and sampling like decode: tokens per second then follow duty in proportion, and a flood of
one-token requests does not run unpaced.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

LOWEST = 0.1
LONGEST = 3600.0  # seconds a lease may last; what holds a host back must end by itself
SLICE = 0.1  # seconds of one sleep, so that a client that left is noticed while the engine rests
# Seconds worked between two rests. The first pass after one is 6 to 14 % slower (cold caches), a burst of this length 1
# to 2 %, one of 0.2 s hardly less; and four times as long would be the pause in a stream: 0.2 s at a duty of 0.2.
BURST = 0.05
CREDIT = 0.05  # seconds that rest too long (late wake-ups, slow clients) may earn back


class Pace:
    """Duty as a lease, and the account of what was worked and rested under it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._changed = threading.Condition()
        self._duty = 1.0
        self._until = math.inf
        self._since = clock()
        self._busy = 0.0
        self._unrested = 0.0

    def hold(self, duty: float, ttl: float) -> None:
        """At most `duty` for `ttl` seconds, then 1.0 again; a later call takes the place of this one."""
        with self._changed:
            self._until = self._clock() + ttl
            self._set(duty)
            self._changed.notify_all()

    def duty(self) -> float:
        """What is allowed now."""
        with self._changed:
            return self._now()

    def begin(self) -> None:
        """Work begins after nothing was to be done: idle time before it earns nothing, a debt from before stays."""
        with self._changed:
            if self._owed() < 0:
                self._open_account()

    def spent(self, seconds: float) -> None:
        """`seconds` were worked."""
        with self._changed:
            self._busy += seconds
            self._unrested += seconds

    def owed(self) -> float:
        """Seconds to rest before working on; 0 or less: none."""
        with self._changed:
            return self._owed()

    def rest(self, gone: Callable[[], bool]) -> None:
        """
        Sleeps until nothing is owed, the lease changes or ends, or `gone` says that nobody waits any more.

        Returns at once until BURST has been worked since the last rest.
        """
        if self._unrested < BURST:
            return
        self._unrested = 0.0
        while (owed := self.owed()) > 0 and not gone():
            self._sleep(min(owed, SLICE))

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _now(self) -> float:
        if self._clock() >= self._until:
            self._until = math.inf
            self._set(1.0)
        return self._duty

    def _set(self, duty: float) -> None:
        if duty != self._duty:  # renewing a lease does not forgive its debt
            self._duty = duty
            self._open_account()

    def _open_account(self) -> None:
        self._since = self._clock()
        self._busy = 0.0

    def _owed(self) -> float:
        duty = self._now()  # first: a lease that ends here opens a new account
        due = self._busy / duty
        owed = due - (self._clock() - self._since)
        if owed < -CREDIT:
            self._since = self._clock() - due - CREDIT
            return -CREDIT
        return owed
