"""
Parses a sensor's Sensor Data Record, and converts its raw readings. IPMI 2.0, sections 36 and 43.

The formula is pyghmi's. Its record parser is not used: it keeps neither entity nor thresholds, and fails at unknown
units, names and lengths (docs/upstream.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BMC_ADDRESS = 0x20
TEMPERATURE, FAN, MEMORY = 0x01, 0x04, 0x0C  # sensor types, table 42-3
FULL, COMPACT, EVENT_ONLY = 0x01, 0x02, 0x03  # record types
THRESHOLD = 0x01  # the event/reading type of a sensor that measures
LINEAR, LAST_FORMULA = 0, 11  # linearizations: 12 formulas
NEEDS_FACTORS = 0x70  # and above: the factors depend on the reading and must be requested
_NAME_AT = {FULL: 47, COMPACT: 31, EVENT_ONLY: 16}
_TYPE_AT = {FULL: 12, COMPACT: 12, EVENT_ONLY: 10}
_RPM, _NO_UNIT = 18, 0
# Bit in the mask of readable thresholds, and offset of the value.
_THRESHOLDS = {"lower_critical": (1, 40), "upper_noncritical": (3, 38), "upper_critical": (4, 37)}
_THRESHOLDS |= {"upper_nonrecoverable": (5, 36)}
_BCD_PLUS = "0123456789 -.:,_"


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor's record; `factors` are bytes 24 to 29 of a Full Sensor Record, empty where nothing is measured."""

    name: str
    number: int
    lun: int
    owner: int
    entity_id: int
    entity_instance: int
    type: int
    reading_type: int
    unit: str = ""
    signed: int = 3
    linearization: int = 0
    factors: bytes = b""
    raw_thresholds: tuple[tuple[str, int], ...] = ()

    @property
    def is_analog(self) -> bool:
        """True where a reading is a number; a discrete sensor's 0x00 is not 0 °C."""
        return self.reading_type == THRESHOLD and self.signed != 3 and bool(self.factors) and bool(self.unit)

    def convert_reading(self, raw: int, factors: bytes | None = None) -> float | None:
        """
        Converts a raw reading to °C, revolutions per minute or a ratio; None where the result is no real number.

        `factors` are those of this reading, from a sensor whose factors depend on the reading.
        """
        linearization = LINEAR if factors is not None else self.linearization
        if linearization > LAST_FORMULA:
            return None
        try:
            decoded = _apply_formula(linearization, factors or self.factors, _to_signed(raw, self.signed))
        except (ValueError, ArithmeticError):
            return None  # logarithm of 0, 1/0
        if isinstance(decoded, complex) or not math.isfinite(decoded):
            return None  # the cube root of a negative number is complex
        return _convert_unit(decoded, self.unit)

    def convert_thresholds(self) -> dict[str, float]:
        """Returns the record's thresholds by name; a limit of 0 or less was never set."""
        if not self.is_analog:
            return {}
        values = ((name, self.convert_reading(raw)) for name, raw in self.raw_thresholds)
        return {name: value for name, value in values if value is not None and value > 0}


def parse_sensor(record: bytes) -> Sensor | None:
    """Returns the sensor of a Full, Compact or Event-Only record, else None. Raises ValueError where it is broken."""
    if len(record) < 5 or len(record) < 5 + record[4]:
        raise ValueError("shorter than its length byte")
    kind = record[3]
    if kind not in _NAME_AT:
        return None
    if len(record) <= _NAME_AT[kind]:
        raise ValueError("too short for its type")
    type_offset = _TYPE_AT[kind]
    name = parse_text(record[_NAME_AT[kind]], record[_NAME_AT[kind] + 1 :]) or f"sensor 0x{record[7]:02X}"
    owner, lun, number, entity, instance = record[5:10]
    common = (name, number, lun & 3, owner, entity, instance, record[type_offset], record[type_offset + 1])
    if kind != FULL:
        return Sensor(*common)
    raw = tuple((name, record[offset]) for name, (bit, offset) in _THRESHOLDS.items() if record[18] >> bit & 1)
    return Sensor(*common, _parse_unit(record), record[20] >> 6, record[23] & 0x7F, record[24:30], raw)


def _parse_unit(record: bytes) -> str:
    """Returns the unit; empty for a rate, a product or a quotient, and for units that no supported sensor has."""
    units, base = record[20], record[21]
    if units & 0b00111110:
        return ""
    if units & 1:
        return "percent" if base in (_NO_UNIT, _RPM) else ""
    return {1: "celsius", 2: "fahrenheit", 3: "kelvin", _RPM: "rpm"}.get(base, "")


def _convert_unit(value: float, unit: str) -> float:
    match unit:
        case "fahrenheit":
            return (value - 32) / 1.8
        case "kelvin":
            return value - 273.15
        case "percent":
            return value / 100
    return value


def _to_signed(raw: int, form: int) -> int:
    """Decodes a byte as unsigned (0), 1's complement (1) or 2's complement (2)."""
    if form == 0 or raw < 0x80:
        return raw
    return raw - 0xFF if form == 1 else raw - 0x100


def _apply_formula(linearization: int, factors: bytes, raw: int) -> float | complex:
    from pyghmi.ipmi.sdr import SDREntry  # pyghmi takes 55 ms to import

    entry = SDREntry.__new__(SDREntry)  # its constructor needs a whole record of a kind that it knows
    entry.linearization = linearization
    entry.decode_formula(factors)
    decoded: float | complex = entry.decode_value(None, raw)
    return decoded


def parse_text(code: int, data: bytes) -> str:
    """
    Decodes a type/length byte and its text, section 43.15, to printable characters.

    The encodings are UTF-8, BCD plus, packed 6-bit ASCII and Latin-1.
    """
    data = data[: code & 0x1F]
    match code >> 6:
        case 0:
            text = data.decode("utf-8", "replace")
        case 1:
            text = "".join(_BCD_PLUS[byte >> 4] + _BCD_PLUS[byte & 0xF] for byte in data)
        case 2:  # the first character has the lowest bits: 29 DC A6 is IPMI
            packed = int.from_bytes(data, "little")
            text = "".join(chr(0x20 + (packed >> 6 * index & 0x3F)) for index in range(len(data) * 8 // 6))
        case _:
            text = data.decode("latin-1")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
