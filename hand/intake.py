"""
Admits requests until the hand ends, and counts those that are under way.

A hand that ended while requests still came restored a governor that the next request set again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hand.errors import HandClosingError


class Intake:
    """The way in for every request; once closed, it stays closed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._active_count = 0
        self._is_closed = False

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Counts one request for the duration of the block; raises HandClosingError after `close`."""
        with self._condition:
            self.check_open()
            self._active_count += 1
        try:
            yield
        finally:
            with self._condition:
                self._active_count -= 1
                self._condition.notify_all()

    def check_open(self) -> None:
        """Raises HandClosingError after `close`, for a request that was admitted and has waited for its turn since."""
        if self._is_closed:
            raise HandClosingError

    def close(self) -> None:
        """Admits no more requests."""
        with self._condition:
            self._is_closed = True

    def wait_until_idle(self, timeout: float) -> bool:
        """Waits until no request is under way; returns False after `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self._active_count == 0, timeout)
