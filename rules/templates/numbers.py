"""
Parses the numbers of templates as Go does: https://pkg.go.dev/text/template/parse#NumberNode.

Python's own `float` and `int` take more: 1e400 is infinity, 1__0 with its underscores removed is 10, and no integer is
too large. A template that Prometheus refuses must not load here and fail there.
"""

from __future__ import annotations

import math
import re

from rules.numbers import FLOAT, INTEGER, parse_integer

_HEX_FLOAT = re.compile(r"[+-]?0[xX](?:[\da-fA-F]+\.?[\da-fA-F]*|\.[\da-fA-F]+)[pP][+-]?\d+", re.ASCII)
_UNDERSCORE = re.compile(r"(?:(?<=[\da-fA-F])|(?<=^0[xXoObB])|(?<=^[+-]0[xXoObB]))_(?=[\da-fA-F])", re.ASCII)
_INT64, _UINT64 = 1 << 63, 1 << 64


def parse_number(text: str) -> int | float:
    """Parses an integer of 64 bits or a float64; raises ValueError in Go's words."""
    plain = _UNDERSCORE.sub("", text)
    if INTEGER.fullmatch(plain):
        integer = parse_integer(plain)
        limit = _INT64 if plain[0] in "+-" else _UINT64
        if -_INT64 <= integer < limit:
            return integer
    value = _parse_float(plain)
    if not math.isfinite(value):
        raise ValueError(f'illegal number syntax: "{text}"')
    if not any(letter in text for letter in ".eEpP"):
        raise ValueError(f'integer overflow: "{text}"')
    return value


def _parse_float(text: str) -> float:
    """Returns NaN for a text that is no float, infinity for one that is too large."""
    try:
        if _HEX_FLOAT.fullmatch(text):
            return float.fromhex(text)
        return float(text) if FLOAT.fullmatch(text) else math.nan
    except OverflowError:
        return math.inf
