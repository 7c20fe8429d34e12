"""What an operator may say of an engine, so that its processes are found."""

from __future__ import annotations

import re

import msgspec


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine that the operator names; of pid, command and url the first that is given finds its process."""

    name: str
    """The label `engine` of all that is measured of it."""
    url: str | None = None
    """Where it answers: the known kind of engine that listens there, on this host or in a container of it."""
    command: str | None = None
    """A regular expression (re2) that is found in its command line, arguments separated by spaces."""
    pid: int | None = None
    """Its process; for an engine that is started by hand."""

    def __post_init__(self) -> None:
        """Raises ValueError where no process could be found by what is told."""
        if (self.url, self.command, self.pid) == (None, None, None):
            raise ValueError("expected one of the keys url, command and pid")
        if self.command is not None:
            compile_pattern(self.command)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern in linear time: what an operator writes must not be able to hang us. Raises ValueError."""
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
