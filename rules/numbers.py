"""
Numbers as text, as Go's strconv has them: a float's shortest digits that read back to the same float64, and integers.

https://pkg.go.dev/strconv#FormatFloat with precision -1. Go's YAML and its templates write integers and floats alike;
each has rules of its own for `_`.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"[+-]?(?:0[xX][\da-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|0|[1-9]\d*)", re.ASCII)
_OLD_OCTAL = re.compile(r"[+-]?0[0-7]+", re.ASCII)  # Python refuses it


def parse_integer(text: str) -> int:
    """Parses a text that INTEGER matches as a whole."""
    return int(text, 8 if _OLD_OCTAL.fullmatch(text) else 0)


def format_float(value: float, min_exponent: float = -4, max_exponent: float = 16) -> str:
    """
    Formats a float; below 10^min_exponent and from 10^max_exponent on, with an exponent of at least two digits.

    The defaults are Python's own limits and the fastest; `g` in Go has -4 and 6. The special values are NaN, +Inf and
    -Inf.
    """
    if value - value != 0:  # NaN and the infinities
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if "e" not in text and min_exponent <= -4 and max_exponent >= 16:
        return text.removesuffix(".0")
    sign, digits, last_exponent = Decimal(text).normalize().as_tuple()
    significand = "".join(map(str, digits))
    exponent = len(digits) + int(last_exponent) - 1 if value else 0
    if min_exponent <= exponent < max_exponent:
        return "-" * sign + _format_without_exponent(significand, exponent)
    fraction = f".{significand[1:]}" if len(significand) > 1 else ""
    return f"{'-' * sign}{significand[0]}{fraction}e{exponent:+03d}"


def _format_without_exponent(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    integer = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{integer}.{digits[exponent + 1 :]}" if len(digits) > exponent + 1 else integer


def format_plain(value: float) -> str:
    """Formats a float as Go's `f` does: all digits, never an exponent."""
    return format_float(value, -math.inf, math.inf)


def format_scientific(value: float) -> str:
    """Formats a float as Go's `e` does: always with an exponent, such as `1e+00` or `2.5e-03`."""
    return format_float(value, math.inf, math.inf)
