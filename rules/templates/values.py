"""
The values of templates, and their text as Go's fmt prints it: https://pkg.go.dev/fmt.

A Go float64 is a Python float, an int an int, a string a str, nil None, a map a dict, and a slice a list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rules.numbers import format_float, format_plain, format_scientific
from rules.templates.budget import join_bounded

MAX_WIDTH = 1_000_000  # Go's limit for a width or precision in a verb

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<first>\[[^\]]*\])?(?P<width>\*|\d+)?"
    r"(?:\.(?P<second>\[[^\]]*\])?(?P<precision>\*|\d*))?(?P<third>\[[^\]]*\])?(?P<verb>.)?",
    re.DOTALL,
)
_ARGUMENT_INDEX = re.compile(r"\[(\d{1,7})\]", re.ASCII)
_QUOTES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


class StringMap(dict[str, str]):
    """A map[string]string: a missing key reads as the empty string."""


class Method(NamedTuple):
    """A record's method: its function, the Go types of its parameters, and `time` or `duration` for such a result."""

    call: Callable[..., object]
    parameters: tuple[str, ...] = ()
    result_kind: str = ""


class TemplateRecord:
    """A Go struct with fields and methods by name."""

    type_name = "struct {}"

    def fields(self) -> Mapping[str, object]:
        """The exported fields, in Go's order."""
        return {}

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods that a template may call."""
        return {}

    def __str__(self) -> str:
        return "{" + join_spaced(map(format_value, self.fields().values())) + "}"


@dataclass(frozen=True)
class QuerySample(TemplateRecord):
    """One sample of the `query` function, with the field names of templates."""

    Labels: StringMap
    Value: float

    type_name = "*template.sample"

    def fields(self) -> Mapping[str, object]:
        return {"Labels": self.Labels, "Value": self.Value}


class QueryResult(list[QuerySample]):
    """The result of `query`: samples in the order of evaluation."""


class NamedInt(int):
    """An int that prints as a name: a time.Month or a time.Weekday."""

    def __new__(cls, value: int, names: Sequence[str], type_name: str) -> NamedInt:
        instance = super().__new__(cls, value)
        instance.name, instance.type_name = names[value], type_name
        return instance

    name: str
    type_name: str

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods that a template may call, as in `(toTime 0).Month.String`."""
        return {"String": Method(str)}

    def __str__(self) -> str:
        return self.name


def get_type_name(value: object) -> str:
    """Returns the Go type of a value, as Go's errors name it."""
    if isinstance(value, TemplateRecord | NamedInt):
        return value.type_name
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return "<nil>"


_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "int"),
    (float, "float64"),
    (str, "string"),
    (StringMap, "map[string]string"),
    (dict, "map[string]interface {}"),
    (QueryResult, "template.queryResult"),
    (list, "[]interface {}"),
)


def format_go_float(value: float, verb: str = "g", precision: int | None = None) -> str:
    """Formats a float64 as Go's %v: the shortest digits that read back, an exponent below -4 and from 6 on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if precision is not None:
        return f"{value:.{precision}{verb}}"
    if verb in "eE":
        return format_scientific(value)
    return format_float(value, -4, 6) if verb in "gG" else format_plain(value)


def format_value(value: object) -> str:
    """Formats a value as Go's %v; a nested nil is `<nil>`."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format_go_float(value)
    if isinstance(value, Mapping):
        return f"map[{join_spaced(f'{key}:{format_value(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{join_spaced(map(format_value, value))}]"
    return str(value)


def join_spaced(texts: Iterable[str]) -> str:
    """Joins texts with a space between two."""
    return join_bounded(f" {text}" if index else text for index, text in enumerate(texts))


def sprint(values: Sequence[object]) -> str:
    """Formats as fmt.Sprint: a space between two neighbours when neither is a string."""
    return join_bounded(_sprint_pieces(values))


def _sprint_pieces(values: Sequence[object]) -> Iterator[str]:
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            yield " "
        yield format_value(value)


def quote(text: str) -> str:
    """Quotes as strconv.Quote."""
    return '"' + "".join(_quote_character(character) for character in text) + '"'


def _quote_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character in _QUOTES:
        return _QUOTES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def sprintf(template: str, values: Sequence[object]) -> str:
    """Formats as fmt.Sprintf, with Go's `%!verb(type=value)` for a verb that does not fit."""
    return join_bounded(_Printer(values).format_pieces(template))


class _Printer:
    def __init__(self, values: Sequence[object]) -> None:
        self.values = values
        self.next_index = 0
        self.reordered = False

    def format_pieces(self, template: str) -> Iterator[str]:
        end = 0
        for match in _VERB.finditer(template):
            yield template[end : match.start()]
            yield self.format_verb(match)
            end = match.end()
        yield template[end:]
        yield from self.format_extra()

    def next_value(self) -> object:
        self.next_index += 1
        return self.values[self.next_index - 1]

    def format_extra(self) -> Iterator[str]:
        rest = () if self.reordered else self.values[self.next_index :]
        for index, value in enumerate(rest):
            yield ", " if index else "%!(EXTRA "
            yield "<nil>" if value is None else f"{get_type_name(value)}={format_value(value)}"
        if rest:
            yield ")"

    def parse_size(self, size_text: str | None, error_text: str) -> tuple[int | None, str]:
        if size_text is None:
            return None, ""
        if size_text != "*":
            number = int(size_text or "0")
            return (number, "") if number <= MAX_WIDTH else (None, error_text)
        if self.next_index >= len(self.values):
            return None, error_text
        value = self.next_value()
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WIDTH:
            return value, ""
        return None, error_text

    def seek_argument(self, argument: str | None) -> bool:
        """Moves to the argument of an index such as `[2]`; returns False when there is no such argument."""
        if argument is None:
            return True
        self.reordered = True
        match = _ARGUMENT_INDEX.fullmatch(argument)
        if match is None or not 1 <= int(match[1]) <= len(self.values):
            return False
        self.next_index = int(match[1]) - 1
        return True

    def format_verb(self, match: re.Match[str]) -> str:
        flags, verb = match["flags"], match["verb"]
        # Go's rule: `%[1]*d` and `%6.[1]f` are valid, `%[1]6d` and `%[1].2f` are not.
        has_literal_size = (match["width"] or "*") != "*" or (match["precision"] is not None and not match["width"])
        is_valid_index = self.seek_argument(match["first"]) and not (match["first"] and has_literal_size)
        width, bad_width = self.parse_size(match["width"], "%!(BADWIDTH)")
        is_valid_index = self.seek_argument(match["second"]) and is_valid_index
        precision, bad_precision = self.parse_size(match["precision"], "%!(BADPREC)")
        is_valid_index = self.seek_argument(match["third"]) and is_valid_index
        if verb is None:
            return bad_width + bad_precision + "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not is_valid_index or self.next_index >= len(self.values):
            return f"{bad_width}{bad_precision}%!{verb}({'MISSING' if is_valid_index else 'BADINDEX'})"
        text = format_argument(verb, flags, precision, self.next_value())
        return bad_width + bad_precision + pad_text(text, flags, width or 0)


def pad_text(text: str, flags: str, width: int) -> str:
    """Pads a text to a width: to the right with `-`, with zeros after the sign with `0`, else spaces before."""
    if width < 0 or "-" in flags:
        return text.ljust(abs(width))
    if "0" in flags and text[-1:].isalnum():
        sign = text[0] if text[:1] in ("-", "+") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def format_argument(verb: str, flags: str, precision: int | None, value: object) -> str:
    """Formats one value by one verb, without the width."""
    if verb == "T":
        return get_type_name(value)
    if value is None:
        return "<nil>" if verb == "v" else f"%!{verb}(<nil>)"
    text: str | None
    if isinstance(value, bool):
        text = format_value(value) if verb in "tv" else None
    elif isinstance(value, NamedInt) and verb in "vsqxX":
        text = _format_string(verb, precision, str(value))
    elif isinstance(value, int):
        text = _format_integer(verb, flags, int(value))
    elif isinstance(value, float):
        text = _format_float(verb, flags, precision, value)
    elif isinstance(value, str):
        text = _format_string(verb, precision, value)
    else:
        text = format_value(value) if verb in "vs" else None
    return f"%!{verb}({get_type_name(value)}={format_value(value)})" if text is None else text


def _add_sign(text: str, flags: str) -> str:
    unsigned = text.lstrip("+")
    if unsigned.startswith("-"):
        return unsigned
    return "+" + unsigned if "+" in flags or unsigned == "Inf" else (" " if " " in flags else "") + unsigned


def _format_integer(verb: str, flags: str, value: int) -> str | None:
    if verb in "vd":
        return _add_sign(str(value), flags)
    if verb in "xXob":
        return _add_sign(format(value, ("#" if "#" in flags else "") + verb), flags)
    if verb in "cqU":
        is_valid = 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000
        character = chr(value) if is_valid else "\ufffd"
        escaped = {"'": "\\'", '"': '"'}.get(character) or _quote_character(character)
        return {"c": character, "q": f"'{escaped}'", "U": f"U+{value:04X}"}[verb]
    return None


def _format_float(verb: str, flags: str, precision: int | None, value: float) -> str | None:
    if verb not in "vgGeEfF":
        return None
    letter = {"v": "g", "F": "f"}.get(verb, verb)
    if precision is None and letter in "eEf":
        precision = 6
    return _add_sign(format_go_float(value, letter, precision), flags)


def _format_string(verb: str, precision: int | None, value: str) -> str | None:
    truncated = value if precision is None else value[:precision]
    if verb in "vs":
        return truncated
    if verb == "q":
        return quote(truncated)
    if verb in "xX":
        return format(truncated.encode().hex(), "s") if verb == "x" else truncated.encode().hex().upper()
    return None
