"""
Slows the engine down to a duty: the share of wall time in which it may work.

Memory power follows the bytes streamed per second, so fewer passes per second cool; fewer clients do not.
All work is charged: prefill and sampling like decode. So tokens per second are proportional to the duty, and a flood
of one-token requests is paced, too.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

MIN_DUTY = 0.1
MAX_TTL = 3600.0  # longest lease in seconds: a slowdown must end by itself
SLEEP_SLICE = 0.1  # seconds of one sleep: a resting engine must notice a client that leaves
# Seconds of work between two rests. Cold caches make the first pass after a rest 6 to 14 % slower, and a burst of this
# length 1 to 2 %. A burst of 0.2 s gains little, and its pauses are four times as long; at duty 0.2 ours are 0.2 s.
BURST = 0.05
CREDIT = 0.05  # seconds of excess rest (late wake-ups, slow clients) that later work may use


class Pace:
    """The lease of a duty, and the account of work and rest under it."""

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
        """Limits the duty for `ttl` seconds, then 1.0 applies again; a later call replaces the lease."""
        with self._changed:
            self._expires_at = self._clock() + ttl
            self._set_duty(duty)
            self._changed.notify_all()

    def get_duty(self) -> float:
        """Returns the current duty."""
        with self._changed:
            return self._get_current_duty()

    def begin_work(self) -> None:
        """Starts work after idling: the idle time earns no credit, and an earlier debt remains."""
        with self._changed:
            if self._compute_debt() < 0:
                self._open_account()

    def charge(self, seconds: float) -> None:
        """Charges `seconds` of work."""
        with self._changed:
            self._worked_seconds += seconds
            self._seconds_since_rest += seconds

    def get_debt(self) -> float:
        """Returns the seconds to rest before more work; 0 or less means no rest."""
        with self._changed:
            return self._compute_debt()

    def rest(self, should_stop: Callable[[], bool]) -> None:
        """
        Sleeps until the debt is paid, the lease changes or ends, or `should_stop` returns True.

        Returns at once if less than BURST was worked since the last rest.
        """
        if self._seconds_since_rest < BURST:
            return
        self._seconds_since_rest = 0.0
        while (debt := self.get_debt()) > 0 and not should_stop():
            self._sleep(min(debt, SLEEP_SLICE))

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _get_current_duty(self) -> float:
        if self._clock() >= self._expires_at:
            self._expires_at = math.inf
            self._set_duty(1.0)
        return self._duty

    def _set_duty(self, duty: float) -> None:
        if duty != self._duty:  # a renewal does not forgive the debt
            self._duty = duty
            self._open_account()

    def _open_account(self) -> None:
        self._since = self._clock()
        self._worked_seconds = 0.0

    def _compute_debt(self) -> float:
        duty = self._get_current_duty()  # comes first: a lease that ends here opens a new account
        due = self._worked_seconds / duty
        debt = due - (self._clock() - self._since)
        if debt < -CREDIT:
            self._since = self._clock() - due - CREDIT
            return -CREDIT
        return debt
