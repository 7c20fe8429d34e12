"""
The values a template works on and how Go prints them: https://pkg.go.dev/fmt.

A Go float64 is a float, an int an int, a string a str, nil None, a map a dict, a slice a list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from rules.templates.budget import bounded

WIDEST = 1_000_000  # Go's own cap on a width or precision in a verb

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<first>\[[^\]]*\])?(?P<width>\*|\d+)?"
    r"(?:\.(?P<second>\[[^\]]*\])?(?P<precision>\*|\d*))?(?P<third>\[[^\]]*\])?(?P<verb>.)?",
    re.DOTALL,
)
_ARGUMENT = re.compile(r"\[(\d{1,7})\]", re.ASCII)
_QUOTES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


class Strings(dict[str, str]):
    """A map[string]string: a key it lacks is the empty string."""


class Method(NamedTuple):
    """A method of a Record: its function, the Go types of its parameters, and the kind of time it gives, if one."""

    call: Callable[..., object]
    parameters: tuple[str, ...] = ()
    gives: str = ""


class Record:
    """A Go struct: its fields and methods by name."""

    type_name = "struct {}"

    def fields(self) -> Mapping[str, object]:
        """The exported fields, in Go's order."""
        return {}

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods that a template may call."""
        return {}

    def __str__(self) -> str:
        return "{" + spaced(map(shown, self.fields().values())) + "}"


@dataclass(frozen=True)
class QuerySample(Record):
    """One sample of the `query` function, its fields spelt as in templates."""

    Labels: Strings
    Value: float

    type_name = "*template.sample"

    def fields(self) -> Mapping[str, object]:
        return {"Labels": self.Labels, "Value": self.Value}


class QueryResult(list[QuerySample]):
    """What `query` gives: samples in the order of evaluation."""


class Named(int):
    """An int that prints as a name: a time.Month or a time.Weekday."""

    def __new__(cls, value: int, names: Sequence[str], type_name: str) -> Named:
        made = super().__new__(cls, value)
        made.name, made.type_name = names[value], type_name
        return made

    name: str
    type_name: str

    @property
    def methods(self) -> Mapping[str, Method]:
        """`(toTime 0).Month.String`."""
        return {"String": Method(str)}

    def __str__(self) -> str:
        return self.name


def type_name(value: object) -> str:
    """The Go type of a value, as it stands in Go's errors."""
    if isinstance(value, Record | Named):
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
    (Strings, "map[string]string"),
    (dict, "map[string]interface {}"),
    (QueryResult, "template.queryResult"),
    (list, "[]interface {}"),
)


def go_float(value: float, verb: str = "g", precision: int | None = None) -> str:
    """A float64 as Go prints it with %v: the shortest digits that read back, an exponent below -4 and from 6 on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if precision is not None:
        return f"{value:.{precision}{verb}}"
    digits = Decimal(repr(value)).normalize().as_tuple()
    exponent = len(digits.digits) + int(digits.exponent) - 1 if value else 0
    sign = "-" if digits.sign else ""
    shown = "".join(map(str, digits.digits))
    if verb in "eE" or (verb in "gG" and not -4 <= exponent < 6):
        return _with_exponent(sign, shown, exponent)
    return sign + _without_exponent(shown, exponent)


def _with_exponent(sign: str, digits: str, exponent: int) -> str:
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _without_exponent(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{whole}.{digits[exponent + 1 :]}" if len(digits) > exponent + 1 else whole


def shown(value: object) -> str:
    """A value as Go's %v has it; nil inside something is `<nil>`."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return go_float(value)
    if isinstance(value, Mapping):
        return f"map[{spaced(f'{key}:{shown(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{spaced(map(shown, value))}]"
    return str(value)


def spaced(texts: Iterable[str]) -> str:
    """Texts with a space between each."""
    return bounded(f" {text}" if index else text for index, text in enumerate(texts))


def joined(values: Sequence[object]) -> str:
    """fmt.Sprint: a space between two neighbours where neither is a string."""
    return bounded(_side_by_side(values))


def _side_by_side(values: Sequence[object]) -> Iterator[str]:
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            yield " "
        yield shown(value)


def quoted(text: str) -> str:
    """strconv.Quote."""
    return '"' + "".join(_quoted_sign(sign) for sign in text) + '"'


def _quoted_sign(sign: str) -> str:
    if sign in '"\\':
        return "\\" + sign
    if sign in _QUOTES:
        return _QUOTES[sign]
    if sign.isprintable():
        return sign
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def sprintf(template: str, values: Sequence[object]) -> str:
    """fmt.Sprintf, with Go's `%!verb(type=value)` where a verb does not fit."""
    return bounded(_Printer(values).pieces(template))


class _Printer:
    def __init__(self, values: Sequence[object]) -> None:
        self.values = values
        self.used = 0
        self.reordered = False

    def pieces(self, template: str) -> Iterator[str]:
        end = 0
        for found in _VERB.finditer(template):
            yield template[end : found.start()]
            yield self.verb(found)
            end = found.end()
        yield template[end:]
        yield from self.extra()

    def take(self) -> object:
        self.used += 1
        return self.values[self.used - 1]

    def extra(self) -> Iterator[str]:
        rest = () if self.reordered else self.values[self.used :]
        for index, value in enumerate(rest):
            yield ", " if index else "%!(EXTRA "
            yield "<nil>" if value is None else f"{type_name(value)}={shown(value)}"
        if rest:
            yield ")"

    def size(self, written: str | None, bad: str) -> tuple[int | None, str]:
        if written is None:
            return None, ""
        if written != "*":
            number = int(written or "0")
            return (number, "") if number <= WIDEST else (None, bad)
        if self.used >= len(self.values):
            return None, bad
        value = self.take()
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= WIDEST:
            return value, ""
        return None, bad

    def goes_to(self, argument: str | None) -> bool:
        """Goes on with the argument of an index such as `[2]`; False where there is none of that number."""
        if argument is None:
            return True
        self.reordered = True
        found = _ARGUMENT.fullmatch(argument)
        if found is None or not 1 <= int(found[1]) <= len(self.values):
            return False
        self.used = int(found[1]) - 1
        return True

    def verb(self, found: re.Match[str]) -> str:
        flags, verb = found["flags"], found["verb"]
        # Go's own rule: `%[1]*d` and `%6.[1]f` are well, `%[1]6d` and `%[1].2f` are not.
        fixed = (found["width"] or "*") != "*" or (found["precision"] is not None and not found["width"])
        there = self.goes_to(found["first"]) and not (found["first"] and fixed)
        width, bad_width = self.size(found["width"], "%!(BADWIDTH)")
        there = self.goes_to(found["second"]) and there
        precision, bad_precision = self.size(found["precision"], "%!(BADPREC)")
        there = self.goes_to(found["third"]) and there
        if verb is None:
            return bad_width + bad_precision + "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not there or self.used >= len(self.values):
            return f"{bad_width}{bad_precision}%!{verb}({'MISSING' if there else 'BADINDEX'})"
        text = formatted(verb, flags, precision, self.take())
        return bad_width + bad_precision + padded(text, flags, width or 0)


def padded(text: str, flags: str, width: int) -> str:
    """A text brought to a width: left with `-`, zeros after the sign with `0`, else spaces before."""
    if width < 0 or "-" in flags:
        return text.ljust(abs(width))
    if "0" in flags and text[-1:].isalnum():
        sign = text[0] if text[:1] in ("-", "+") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def formatted(verb: str, flags: str, precision: int | None, value: object) -> str:
    """One value by one verb, without its width."""
    if verb == "T":
        return type_name(value)
    if value is None:
        return "<nil>" if verb == "v" else f"%!{verb}(<nil>)"
    text: str | None
    if isinstance(value, bool):
        text = shown(value) if verb in "tv" else None
    elif isinstance(value, Named) and verb in "vsqxX":
        text = _string(verb, precision, str(value))
    elif isinstance(value, int):
        text = _integer(verb, flags, int(value))
    elif isinstance(value, float):
        text = _floating(verb, flags, precision, value)
    elif isinstance(value, str):
        text = _string(verb, precision, value)
    else:
        text = shown(value) if verb in "vs" else None
    return f"%!{verb}({type_name(value)}={shown(value)})" if text is None else text


def _signed(text: str, flags: str) -> str:
    bare = text.lstrip("+")
    if bare.startswith("-"):
        return bare
    return "+" + bare if "+" in flags or bare == "Inf" else (" " if " " in flags else "") + bare


def _integer(verb: str, flags: str, value: int) -> str | None:
    if verb in "vd":
        return _signed(str(value), flags)
    if verb in "xXob":
        return _signed(format(value, ("#" if "#" in flags else "") + verb), flags)
    if verb in "cqU":
        valid = 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000
        sign = chr(value) if valid else "\ufffd"
        inside = {"'": "\\'", '"': '"'}.get(sign) or _quoted_sign(sign)
        return {"c": sign, "q": f"'{inside}'", "U": f"U+{value:04X}"}[verb]
    return None


def _floating(verb: str, flags: str, precision: int | None, value: float) -> str | None:
    if verb not in "vgGeEfF":
        return None
    letter = {"v": "g", "F": "f"}.get(verb, verb)
    if precision is None and letter in "eEf":
        precision = 6
    return _signed(go_float(value, letter, precision), flags)


def _string(verb: str, precision: int | None, value: str) -> str | None:
    cut = value if precision is None else value[:precision]
    if verb in "vs":
        return cut
    if verb == "q":
        return quoted(cut)
    if verb in "xX":
        return format(cut.encode().hex(), "s") if verb == "x" else cut.encode().hex().upper()
    return None
