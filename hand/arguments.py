"""The arguments of a request, each checked against what its verb expects; nothing is taken that was not asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hand.errors import InvalidError

LEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
SHORTEST_TTL, LONGEST_TTL = 0.1, 300.0  # seconds


class Arguments:
    """Takes one argument after the other; `done` refuses what is left over."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._left = dict(given)

    def whole(self, name: str, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self._left.pop(name, None)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidError(f"{name}: expected a whole number from {least} to {most}, found {_shown(value)}")
        return value

    def number(self, name: str, least: float, most: float) -> float:
        """A number within bounds."""
        value = self._left.pop(name, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InvalidError(f"{name}: expected a number from {least:g} to {most:g}, found {_shown(value)}")
        return float(value)

    def text(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        """A text that the whole pattern matches; `what` says in words what was expected."""
        value = self._left.pop(name, None)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise InvalidError(f"{name}: expected {what}, found {_shown(value)}")
        return value

    def optional_text(self, name: str, pattern: re.Pattern[str], what: str) -> str | None:
        """The same, or None where it is absent or null."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return self.text(name, pattern, what)

    def texts(self, name: str, most: int) -> dict[str, Any]:
        """A mapping of at most so many entries."""
        value = self._left.pop(name, {})
        if not isinstance(value, dict) or len(value) > most:
            raise InvalidError(f"{name}: expected at most {most} names with their texts, found {_shown(value)}")
        return value

    def leases(self, name: str, most: int) -> list[str]:
        """A list of lease names."""
        value = self._left.pop(name, None)
        if not isinstance(value, list) or len(value) > most:
            raise InvalidError(f"{name}: expected a list of at most {most} leases, found {_shown(value)}")
        for each in value:
            if not isinstance(each, str) or not LEASE.fullmatch(each):
                raise InvalidError(f"{name}: expected names of leases, found {_shown(each)}")
        return value

    def lease_name(self) -> str:
        """The name of a lease."""
        return self.text("lease", LEASE, "a name of up to 64 letters, digits and ._:-")

    def ttl(self) -> float:
        """For how many seconds a lease is to hold."""
        return self.number("ttl", SHORTEST_TTL, LONGEST_TTL)

    def lease(self) -> tuple[str, float]:
        """Both."""
        return self.lease_name(), self.ttl()

    def has(self, name: str) -> bool:
        """Whether the argument was given."""
        return name in self._left

    def done(self) -> None:
        """Raises InvalidError where something is left that no one asked for."""
        if self._left:
            raise InvalidError(f"unknown argument {_shown(min(self._left))}")


def _shown(value: object) -> str:
    return "nothing" if value is None else ascii(value)[:60]
