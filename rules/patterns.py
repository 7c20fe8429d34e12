"""
Compiles regular expressions with RE2, and bounds the memory that they take.

The cache of the re2 module counts patterns, not bytes: 128 patterns of a client's queries held 570 MB for good. So this
module empties that cache after each compilation. A pattern lives as long as the query or the rule that uses it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import re2

MAX_LENGTH = 16_384
"""Characters of a pattern. An alternation of a thousand names fits."""

MAX_BYTES_PER_QUERY = 16 << 20
"""Estimated bytes of all compiled patterns of one expression."""

SMALL_BYTES = 1 << 20
"""RE2's limit for one pattern with the states that matching adds; nearly every pattern in use needs a tenth of it."""

_LARGE_BYTES = 8 << 20  # RE2's own limit, for a pattern that the smaller one refuses
_PATTERN_BYTES = 2_048
_INSTRUCTION_BYTES = 60  # measured on alternations of thousands of words, with the syntax tree
_CHARACTER_BYTES = 40
_ESCAPES = re.compile(r"\\Q.*?(?:\\E|\Z)|\\.", re.DOTALL)


class PatternLimitError(ValueError):
    """A pattern, or all patterns of a query together, are too long or too large."""


class PatternAllowance:
    """The bytes that the patterns of one expression may still take."""

    __slots__ = ("_remaining",)

    def __init__(self) -> None:
        self._remaining = MAX_BYTES_PER_QUERY

    def spend(self, pattern: str, compiled: Any) -> None:
        """Accounts for a pattern; raises PatternLimitError if the expression has too many or too large ones."""
        self._remaining -= estimate_bytes(pattern, compiled)
        if self._remaining < 0:
            raise PatternLimitError(
                f"the regular expressions of this query take more than {MAX_BYTES_PER_QUERY >> 20} MiB when compiled; "
                "use fewer or simpler ones"
            )


def compile_bounded(pattern: str, *, dot_matches_newline: bool, allows_large: bool = True) -> Any:
    """Compiles a pattern; raises ValueError, with RE2's reason, if it is invalid or too large."""
    if len(pattern) > MAX_LENGTH:
        raise PatternLimitError(
            f"it has {len(pattern):,} characters, and {MAX_LENGTH:,} are allowed; use a shorter one"
        )
    if r"\C" in _ESCAPES.findall(pattern):
        raise ValueError(r"invalid escape sequence: \C")  # half a character to C++; Go has no such thing
    try:
        return _compile(pattern, dot_matches_newline, SMALL_BYTES)
    except re2.error as error:
        if not (allows_large and "too large" in _describe_error(error)):
            raise ValueError(_describe_error(error)) from error
        return _compile_large(pattern, dot_matches_newline)


def _compile_large(pattern: str, dot_matches_newline: bool) -> Any:
    try:
        return _compile(pattern, dot_matches_newline, _LARGE_BYTES)
    except re2.error as error:
        raise ValueError(_describe_error(error)) from error


def _compile(pattern: str, dot_matches_newline: bool, max_bytes: int) -> Any:
    options = re2.Options()
    options.log_errors = False  # the caller reports the error; RE2 would also print it
    options.dot_nl = dot_matches_newline
    options.max_mem = max_bytes
    try:
        return re2.compile(pattern, options=options)
    finally:
        re2.purge()


def _describe_error(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def estimate_bytes(pattern: str, compiled: Any) -> int:
    """Estimates the memory of a compiled pattern, without the states that matching adds."""
    return int(_PATTERN_BYTES + _INSTRUCTION_BYTES * compiled.programsize + _CHARACTER_BYTES * len(pattern))


class PatternCache:
    """The compiled patterns that were used last; those used longest ago leave first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._compiled: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self.size = 0

    def find(self, pattern: str) -> Any | None:
        """Returns the compiled pattern; None if it was never added, or has left."""
        if pattern not in self._compiled:
            return None
        self._compiled.move_to_end(pattern)
        return self._compiled[pattern][0]

    def add(self, pattern: str, compiled: Any) -> None:
        """Adds a pattern that `find` did not return; one that exceeds the cache by itself is not added."""
        size = estimate_bytes(pattern, compiled)
        if size > self._max_bytes:
            return
        self._compiled[pattern] = (compiled, size)
        self.size += size
        while self.size > self._max_bytes:
            _, (_, freed) = self._compiled.popitem(last=False)
            self.size -= freed
