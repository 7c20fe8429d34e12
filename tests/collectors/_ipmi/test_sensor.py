"""Sensors' records and readings: every conversion of the specification, and no value from damaged records."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bmc import SimulatedSensor
from collectors._ipmi.sensor import Sensor, parse_sensor, parse_text

BYTE = st.integers(0, 255)
TEN_BITS, FOUR_BITS = st.integers(-512, 511), st.integers(-8, 7)
FORMS = {0: lambda raw: raw, 1: lambda raw: raw - 255 if raw > 127 else raw, 2: lambda raw: raw - 256 * (raw > 127)}


def make_sensor(**fields: object) -> Sensor:
    parsed = parse_sensor(SimulatedSensor("DIMM", 0, **fields).encode_record(1, 1))  # type: ignore[arg-type]  # of many kinds
    assert parsed is not None
    return parsed


@given(BYTE, st.sampled_from(sorted(FORMS)), TEN_BITS, TEN_BITS, FOUR_BITS, FOUR_BITS)
def test_a_linear_reading_is_what_the_formula_says(raw: int, form: int, m: int, b: int, k1: int, k2: int) -> None:
    """(M x + B 10^K1) 10^K2 holds for unsigned, 1's and 2's complement readings, also with negative factors."""
    value = make_sensor(units=form << 6, m=m, b=b, b_exponent=k1, r_exponent=k2).convert_reading(raw)
    exact = (m * FORMS[form](raw) + b * Fraction(10) ** k1) * Fraction(10) ** k2

    assert value == pytest.approx(float(exact), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("linearization", "expected"),
    [
        (0, 40.0),
        (1, math.log(40)),
        (2, math.log10(40)),
        (3, math.log2(40)),
        (4, math.exp(40)),
        (5, 1e40),
        (6, 2.0**40),
        (7, 1 / 40),
        (8, 1600.0),
        (9, 64000.0),
        (10, math.sqrt(40)),
        (11, 40 ** (1 / 3)),
    ],
)
def test_each_linearization_is_applied_after_the_factors(linearization: int, expected: float) -> None:
    """The formulas are ln, log10, log2, e^x, 10^x, 2^x, 1/x, x², x³, square and cube root, of 2 x 25 - 10."""
    assert make_sensor(linearization=linearization, m=2, b=-10).convert_reading(25) == pytest.approx(expected)


@pytest.mark.parametrize("linearization", [1, 2, 3, 7])
def test_what_has_no_value_is_missing(linearization: int) -> None:
    """The logarithm of 0, 1/0 and Python's complex cube root are no readings."""
    assert make_sensor(linearization=linearization).convert_reading(0) is None
    assert make_sensor(linearization=11, units=0x80).convert_reading(0xF8) is None
    assert make_sensor(linearization=10, units=0x80).convert_reading(0xF8) is None


@pytest.mark.parametrize("linearization", [12, 0x6F, 0x70, 0x7F])
def test_factors_that_must_be_asked_for_are_not_made_up(linearization: int) -> None:
    """A non-linear sensor has a value only with the factors for that reading; an unknown formula gives none."""
    nonlinear = make_sensor(linearization=linearization)

    assert nonlinear.convert_reading(40) is None
    assert nonlinear.convert_reading(40, bytes((2, 0, 10, 0, 0, 0))) == 90.0
    assert nonlinear.convert_thresholds() == {}


@pytest.mark.parametrize(
    ("units", "unit", "raw", "expected"),
    [(0x00, 1, 40, 40.0), (0x00, 2, 212, 100.0), (0x00, 3, 255, -18.15), (0x01, 0, 35, 0.35), (0x00, 18, 60, 60.0)],
)
def test_units_are_base_units(units: int, unit: int, raw: int, expected: float) -> None:
    """°F and K become °C, percent becomes a ratio, revolutions stay."""
    assert make_sensor(units=units, unit=unit).convert_reading(raw) == pytest.approx(expected)


@pytest.mark.parametrize(("units", "unit"), [(0xC0, 1), (0x00, 4), (0x02, 1), (0x08, 18), (0x01, 1)])
def test_what_is_no_measure_is_known_as_such(units: int, unit: int) -> None:
    """No analog reading, volts, degrees per time, a rate, and percent of degrees are no measurements."""
    assert not make_sensor(units=units, unit=unit).is_analog


def test_thresholds_come_along_where_they_are_set() -> None:
    """Thresholds are converted like readings; unreadable ones, and those of 0 or less, were never set."""
    assert make_sensor(upper=(95, 85, 0)).convert_thresholds() == {"upper_critical": 85.0, "upper_nonrecoverable": 95.0}
    assert make_sensor(upper=(95, 85, 80), m=1, b=-82).convert_thresholds() == {
        "upper_critical": 3.0,
        "upper_nonrecoverable": 13.0,
    }
    assert make_sensor().convert_thresholds() == {}
    assert make_sensor(lower=(3, 5, 8), m=100, unit=18).convert_thresholds() == {"lower_critical": 500.0}


@given(st.binary(max_size=80))
def test_garbage_is_no_sensor(record: bytes) -> None:
    """Any bytes give a sensor or a ValueError, and no reading is infinite."""
    try:
        parsed = parse_sensor(record)
    except ValueError:
        return
    for raw in (0, 127, 128, 255) if parsed is not None and parsed.is_analog else ():
        value = parsed.convert_reading(raw)
        assert value is None or math.isfinite(value)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x5F), min_size=1, max_size=20))
def test_packed_names_read_back(name: str) -> None:
    """Six bits for each letter, the first one lowest: names on which pyghmi loops for ever."""
    packed = sum(ord(letter) - 0x20 << 6 * index for index, letter in enumerate(name))
    data = packed.to_bytes(-(-len(name) * 6 // 8), "little")

    assert parse_text(0x80 | len(data), data) == name


@pytest.mark.parametrize(
    ("code", "data", "text"),
    [
        (0x83, "29dca6", "IPMI"),  # the specification's own example
        (0xC5, "4449 4d4d 41", "DIMMA"),
        (0xC4, "54b0 4300", "T°C"),
        (0x44, "12 3b 4c 0a", "123-4.0"),
        (0x05, "c3a9 ff 41 42", "é�AB"),
        (0xC0, "", ""),
    ],
)
def test_names_in_every_encoding(code: int, data: str, text: str) -> None:
    """Packed ASCII, Latin-1, BCD plus and UTF-8 decode; unprintable characters become spaces."""
    assert parse_text(code, bytes.fromhex(data)) == text
