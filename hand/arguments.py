"""Checks the arguments of a request, one by one, against what the verb expects; unknown arguments are an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hand.errors import InvalidRequestError

LEASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
MIN_TTL, MAX_TTL = 0.1, 300.0  # seconds


class Arguments:
    """Hands out one argument after the other; `reject_unknown` refuses the rest."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._remaining = dict(arguments)

    def take_integer(self, name: str, minimum: int, maximum: int) -> int:
        """Returns a whole number within bounds."""
        value = self._remaining.pop(name, None)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise InvalidRequestError(
                f"{name}: expected a whole number from {minimum} to {maximum}, found {_describe_value(value)}"
            )
        return value

    def take_number(self, name: str, minimum: float, maximum: float) -> float:
        """Returns a number within bounds."""
        value = self._remaining.pop(name, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            raise InvalidRequestError(
                f"{name}: expected a number from {minimum:g} to {maximum:g}, found {_describe_value(value)}"
            )
        return float(value)

    def take_text(self, name: str, pattern: re.Pattern[str], expected: str) -> str:
        """Returns a text that the whole pattern matches; `expected` describes the pattern for the error sentence."""
        value = self._remaining.pop(name, None)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise InvalidRequestError(f"{name}: expected {expected}, found {_describe_value(value)}")
        return value

    def take_optional_text(self, name: str, pattern: re.Pattern[str], expected: str) -> str | None:
        """Returns the text as `take_text` does, or None when the argument is absent or null."""
        if self._remaining.get(name) is None:
            self._remaining.pop(name, None)
            return None
        return self.take_text(name, pattern, expected)

    def take_mapping(self, name: str, maximum: int) -> dict[str, Any]:
        """Returns a mapping of at most `maximum` entries."""
        value = self._remaining.pop(name, {})
        if not isinstance(value, dict) or len(value) > maximum:
            raise InvalidRequestError(
                f"{name}: expected at most {maximum} names with their texts, found {_describe_value(value)}"
            )
        return value

    def take_lease_names(self, name: str, maximum: int) -> list[str]:
        """Returns a list of at most `maximum` lease names."""
        value = self._remaining.pop(name, None)
        if not isinstance(value, list) or len(value) > maximum:
            raise InvalidRequestError(
                f"{name}: expected a list of at most {maximum} leases, found {_describe_value(value)}"
            )
        for lease_name in value:
            if not isinstance(lease_name, str) or not LEASE_NAME.fullmatch(lease_name):
                raise InvalidRequestError(f"{name}: expected names of leases, found {_describe_value(lease_name)}")
        return value

    def take_lease_name(self) -> str:
        """Returns the argument `lease`."""
        return self.take_text("lease", LEASE_NAME, "a name of up to 64 letters, digits and ._:-")

    def take_ttl(self) -> float:
        """Returns the argument `ttl`: the lifetime of a lease, in seconds."""
        return self.take_number("ttl", MIN_TTL, MAX_TTL)

    def take_lease(self) -> tuple[str, float]:
        """Returns the lease's name and its ttl in seconds."""
        return self.take_lease_name(), self.take_ttl()

    def has(self, name: str) -> bool:
        """True while the argument is present and not yet taken."""
        return name in self._remaining

    def reject_unknown(self) -> None:
        """Raises InvalidRequestError when an argument has not been taken."""
        if self._remaining:
            raise InvalidRequestError(f"unknown argument {_describe_value(min(self._remaining))}")


def _describe_value(value: object) -> str:
    return "nothing" if value is None else ascii(value)[:60]
