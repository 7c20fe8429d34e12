"""What a body holds, read field by field; whatever is wrong becomes a status and one sentence for the client."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn

Fields = dict[str, Any]

LARGEST_SEED = 1 << 64  # NumPy takes no negative seed, OpenAI's are signed

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class RefusedError(Exception):
    """A request that will not be served: an HTTP status, one sentence for the client, and when to come back."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after


def fields_of(body: bytes, known: Collection[str]) -> Fields:
    """A JSON object of these fields; null is as good as absent. Raises RefusedError."""
    try:
        fields = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, "The body must be a JSON object.")
    return only(fields, known, "Unknown field")


def only(fields: Fields, known: Collection[str], what: str) -> Fields:
    """The fields that are not null; raises RefusedError where one is not known."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name in given:
        if name not in known:
            raise RefusedError(400, f"{what} {name[:40]!r}: expected only {', '.join(known)}.")
    return given


def number(fields: Fields, name: str, default: float, *, least: float, most: float) -> float:
    """A number in a range."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RefusedError(400, f"{name} must be a number from {least:g} to {most:g}.")
    return float(value)


def whole(fields: Fields, name: str, default: int, *, least: int, most: int) -> int:
    """A whole number in a range."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RefusedError(400, f"{name} must be a whole number from {least} to {most}.")
    return value


def flag(fields: Fields, name: str) -> bool:
    """True or false; false where absent."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise RefusedError(400, f"{name} must be true or false.")
    return value


def seed(fields: Fields) -> int | None:
    """A seed that NumPy takes, from any 64-bit whole number."""
    if "seed" not in fields:
        return None
    return whole(fields, "seed", 0, least=-(1 << 63), most=(1 << 63) - 1) % LARGEST_SEED


def seconds(fields: Fields, name: str, default: float, *, most: float) -> float:
    """Seconds as a number, or as a duration such as "30s"."""
    value = fields.get(name, default)
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        value = float(match[1]) * _SECONDS[match[2]] if match else math.nan
        if not 0.001 <= value <= most:
            raise RefusedError(400, f'{name} must be seconds, or a duration such as "30s" of at most {most:g} seconds.')
        return float(value)
    return number(fields, name, default, least=0.001, most=most)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
