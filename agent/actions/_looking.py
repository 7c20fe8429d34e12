"""What is read before anything is written: that no answer came leaves no doubt about what was done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agent.actions import FailedError, UnknownError

Result = TypeVar("Result")


def read_only(read: Callable[[], Result]) -> Result:
    """What `look` finds; FailedError where nobody answers it."""
    try:
        return read()
    except UnknownError as error:
        raise FailedError(f"{error}; nothing was done") from error
