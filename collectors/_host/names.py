"""Sorts and filters the names of files and nodes, and tells whole numbers from other words."""

from __future__ import annotations

import re
from typing import Any

_DIGITS = re.compile(r"(\d+)")
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)


def is_text(name: str) -> bool:
    """Returns True for a name that can be a label and part of a log line."""
    return name.isprintable()  # bytes that are not UTF-8 arrive as lone surrogates, which are not printable


def is_integer(text: str) -> bool:
    """Returns True for a whole number of at most twenty digits; `1_000`, which int() takes, is none."""
    return _INTEGER.fullmatch(text) is not None


def natural(name: str) -> list[Any]:
    """Returns a sort key that puts node2 before node10."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)]
