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

MIN_DUTY = 0.1
MAX_TTL = 3600.0  # seconds a lease may last; what holds a host back must end by itself
SLEEP_SLICE = 0.1  # seconds of one sleep, so that a client that left is noticed while the engine rests
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
        self._expires_at = math.inf
        self._since = clock()
        self._worked_seconds = 0.0
        self._seconds_since_rest = 0.0

    def set_lease(self, duty: float, ttl: float) -> None:
        """At most `duty` for `ttl` seconds, then 1.0 again; a later call takes the place of this one."""
        with self._changed:
            self._expires_at = self._clock() + ttl
            self._set_duty(duty)
            self._changed.notify_all()

    def get_duty(self) -> float:
        """What is allowed now."""
        with self._changed:
            return self._current_duty()

    def begin_work(self) -> None:
        """Work begins after nothing was to be done: idle time before it earns nothing, a debt from before stays."""
        with self._changed:
            if self._compute_debt() < 0:
                self._open_account()

    def charge(self, seconds: float) -> None:
        """`seconds` were worked."""
        with self._changed:
            self._worked_seconds += seconds
            self._seconds_since_rest += seconds

    def get_debt(self) -> float:
        """Seconds to rest before working on; 0 or less: none."""
        with self._changed:
            return self._compute_debt()

    def rest(self, should_stop: Callable[[], bool]) -> None:
        """
        Sleeps until nothing is owed, the lease changes or ends, or `gone` says that nobody waits any more.

        Returns at once until BURST has been worked since the last rest.
        """
        if self._seconds_since_rest < BURST:
            return
        self._seconds_since_rest = 0.0
        while (debt := self.get_debt()) > 0 and not should_stop():
            self._sleep(min(debt, SLEEP_SLICE))

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _current_duty(self) -> float:
        if self._clock() >= self._expires_at:
            self._expires_at = math.inf
            self._set_duty(1.0)
        return self._duty

    def _set_duty(self, duty: float) -> None:
        if duty != self._duty:  # renewing a lease does not forgive its debt
            self._duty = duty
            self._open_account()

    def _open_account(self) -> None:
        self._since = self._clock()
        self._worked_seconds = 0.0

    def _compute_debt(self) -> float:
        duty = self._current_duty()  # first: a lease that ends here opens a new account
        due = self._worked_seconds / duty
        debt = due - (self._clock() - self._since)
        if debt < -CREDIT:
            self._since = self._clock() - due - CREDIT
            return -CREDIT
        return debt
