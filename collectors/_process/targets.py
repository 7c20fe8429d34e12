"""Defines how an operator names an engine, so that its processes can be found."""

from __future__ import annotations

import re

import msgspec


class ProcessTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine that the operator names; the first given key of pid, command and url finds its process."""

    name: str
    """The label `engine` of all its series."""
    url: str | None = None
    """Its URL: an engine of a known kind listens there, on this host or in a container on it."""
    command: str | None = None
    """A regular expression (re2) that matches within its command line, arguments separated by spaces."""
    pid: int | None = None
    """Its process; for an engine that was started by hand."""

    def __post_init__(self) -> None:
        """Raises ValueError where no key can find a process."""
        if (self.url, self.command, self.pid) == (None, None, None):
            raise ValueError("expected one of the keys url, command and pid")
        if self.command is not None:
            compile_pattern(self.command)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles an operator's pattern with re2, whose linear time cannot hang the pass. Raises ValueError."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        expression: re.Pattern[str] = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "unknown fault"
        message = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"command: expected a regular expression, found {pattern!r}: {message}") from None
    return expression
