"""Sorts and filters the names of files and nodes."""

from __future__ import annotations

import re
from typing import Any

_DIGITS = re.compile(r"(\d+)")


def is_text(name: str) -> bool:
    """Returns True for a name that can be a label and part of a log line."""
    return name.isprintable()  # bytes that are not UTF-8 arrive as lone surrogates, which are not printable


def natural(name: str) -> list[Any]:
    """Returns a sort key that puts node2 before node10."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)]
