"""Floats as text: every notation reads back, with an exponent exactly where Go writes one."""

from __future__ import annotations

import math
import re
import struct
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.numbers import format_float, format_plain, format_scientific

LIMITS = {
    "text exposition": (-4, 16),
    "JSON": (-6, 21),
    "g": (-4, 6),
    "f": (-math.inf, math.inf),
    "e": (math.inf, math.inf),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@given(number=st.floats())
@example(number=-0.0)
@example(number=5.960464477539063e-08)
@example(number=999999.9999999999)
@example(number=1e16)
@example(number=1e-6)
def test_a_number_reads_back_bit_for_bit(limits: tuple[float, float], number: float) -> None:
    """The text has no point without digits, and an exponent only outside the limits."""
    text = format_float(number, *limits)

    assert struct.pack("<d", float(text)) == struct.pack("<d", number) or number != number
    assert re.fullmatch(r"NaN|[+-]Inf|-?\d+(\.\d*[1-9])?(e[+-]\d\d+)?", text)
    if math.isfinite(number):
        # Of the shortest digits: 1e-6 is 9.9999999999999995e-07 with seventeen.
        exponent = Decimal(repr(number)).adjusted() if "e" not in text else int(text.partition("e")[2])
        assert ("e" in text) == (not limits[0] <= exponent < limits[1])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_default_is_pythons_own_notation(number: float) -> None:
    """Python's shortest digits, without the `.0` of a whole number."""
    assert format_float(number) == repr(number).removesuffix(".0")


@pytest.mark.parametrize(
    ("number", "plain", "scientific", "general"),
    [
        (0.0, "0", "0e+00", "0"),
        (1.0, "1", "1e+00", "1"),
        (-0.0025, "-0.0025", "-2.5e-03", "-0.0025"),
        (1e6, "1000000", "1e+06", "1e+06"),
        (1e-5, "0.00001", "1e-05", "1e-05"),
        (1.5e300, f"15{'0' * 299}", "1.5e+300", "1.5e+300"),
        (math.nan, "NaN", "NaN", "NaN"),
        (math.inf, "+Inf", "+Inf", "+Inf"),
        (-math.inf, "-Inf", "-Inf", "-Inf"),
    ],
)
def test_notations(number: float, plain: str, scientific: str, general: str) -> None:
    """Go's f, e and g with precision -1."""
    assert format_plain(number) == plain
    assert format_scientific(number) == scientific
    assert format_float(number, -4, 6) == general
