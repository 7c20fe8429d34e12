"""Describes exceptions in log lines and error sentences."""

from __future__ import annotations


def describe_error(error: Exception) -> str:
    """Returns the message; the name of the type where the message is empty, as that of a TimeoutError."""
    return str(error) or type(error).__name__


def describe_fault(error: Exception) -> str:
    """Returns type and message of an exception that no code expects: `KeyError: 'labels'`."""
    return f"{type(error).__name__}: {error}"


def describe_reason(error: BaseException) -> str:
    """Returns the system's words for an OSError, without its number and path; else the message, or the type's name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
