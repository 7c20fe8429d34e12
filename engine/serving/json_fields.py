"""Reads a JSON body field by field; an error becomes an HTTP status and one sentence for the client."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn

Fields = dict[str, Any]

SEED_LIMIT = 1 << 64  # NumPy rejects negative seeds; OpenAI's seeds are signed

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class HttpError(Exception):
    """A refused request: an HTTP status, one sentence for the client, and the seconds of Retry-After."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


def parse_fields(body: bytes, allowed: Collection[str]) -> Fields:
    """Parses a JSON object of these fields; null counts as absent. Raises HttpError."""
    try:
        fields = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise HttpError(400, "The body must be a JSON object.")
    return check_fields(fields, allowed, "Unknown field")


def check_fields(fields: Fields, allowed: Collection[str], prefix: str) -> Fields:
    """Returns the fields that are not null; raises HttpError for an unknown field."""
    present = {name: value for name, value in fields.items() if value is not None}
    for name in present:
        if name not in allowed:
            raise HttpError(400, f"{prefix} {name[:40]!r}: expected only {', '.join(allowed)}.")
    return present


def read_number(fields: Fields, name: str, default: float, *, minimum: float, maximum: float) -> float:
    """Reads a number in a range."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise HttpError(400, f"{name} must be a number from {minimum:g} to {maximum:g}.")
    return float(value)


def read_integer(fields: Fields, name: str, default: int, *, minimum: int, maximum: int) -> int:
    """Reads a whole number in a range."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise HttpError(400, f"{name} must be a whole number from {minimum} to {maximum}.")
    return value


def read_flag(fields: Fields, name: str) -> bool:
    """Reads true or false; false if absent."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise HttpError(400, f"{name} must be true or false.")
    return value


def read_seed(fields: Fields) -> int | None:
    """Reads any 64-bit whole number as a seed for NumPy."""
    if "seed" not in fields:
        return None
    return read_integer(fields, "seed", 0, minimum=-(1 << 63), maximum=(1 << 63) - 1) % SEED_LIMIT


def read_seconds(fields: Fields, name: str, default: float, *, maximum: float) -> float:
    """Reads seconds, as a number or as a duration such as "30s"."""
    value = fields.get(name, default)
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        value = float(match[1]) * _SECONDS[match[2]] if match else math.nan
        if not 0.001 <= value <= maximum:
            raise HttpError(400, f'{name} must be seconds, or a duration such as "30s" of at most {maximum:g} seconds.')
        return float(value)
    return read_number(fields, name, default, minimum=0.001, maximum=maximum)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
