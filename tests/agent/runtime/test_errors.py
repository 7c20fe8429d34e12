"""Exceptions in words."""

from __future__ import annotations

from agent.runtime.errors import describe_error, describe_fault


def test_an_error_without_a_message_has_the_name_of_its_type() -> None:
    """A TimeoutError has no message of its own."""
    assert describe_error(OSError("disk full")) == "disk full"
    assert describe_error(TimeoutError()) == "TimeoutError"


def test_a_fault_has_type_and_message() -> None:
    """The message of a KeyError alone would be only the key."""
    assert describe_fault(KeyError("labels")) == "KeyError: 'labels'"
