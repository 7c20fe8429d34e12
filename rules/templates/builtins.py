"""Go templates' built-in functions: https://pkg.go.dev/text/template#hdr-Functions, src/text/template/funcs.go."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Callable, Mapping
from functools import cache

from rules.templates.lexer import TemplateError
from rules.templates.times import Duration
from rules.templates.values import StringMap, format_value, get_type_name, join_spaced, sprint, sprintf

_JS_ESCAPES = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
_BAD_COMPARISON = "incompatible types for comparison"


def is_true(value: object) -> bool:
    """True for a value that Go's templates treat as true: not zero, not empty, not nil."""
    return bool(value)


def escape_query(text: str) -> str:
    """Escapes as url.QueryEscape: a space becomes `+`."""
    return urllib.parse.quote_plus(text, safe="-_.~", errors="replace")


def _to_text(*args: object) -> str:
    return args[0] if len(args) == 1 and isinstance(args[0], str) else sprint(args)


def _escape_js_character(character: str) -> str:
    if character in _JS_ESCAPES:
        return _JS_ESCAPES[character]
    if character < " " or not character.isprintable():
        return f"\\u{ord(character):04X}"
    return character


def _escape_js(*args: object) -> str:
    return "".join(map(_escape_js_character, _to_text(*args)))


def _escape_html(*args: object) -> str:
    escaped = html.escape(_to_text(*args))
    return escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;").replace("\0", "\ufffd")


def _get_length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict | list):
        return len(value)
    raise TemplateError(f"len of type {get_type_name(value)}")


def _check_index(index: object, length: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int):
        raise TemplateError(f"cannot index slice/array with type {get_type_name(index)}")
    if not 0 <= index < length:
        raise TemplateError(f"index out of range: {index}")
    return index


def _index(value: object, *keys: object) -> object:
    if value is None:
        raise TemplateError("index of untyped nil")
    for key in keys:
        value = _get_element(value, key)
    return value


def _get_element(value: object, key: object) -> object:
    if isinstance(value, Mapping):
        if not isinstance(key, str):
            raise TemplateError(f"value has type {get_type_name(key)}; should be string")
        return value.get(key, "" if isinstance(value, StringMap) else None)
    if isinstance(value, str):
        raw = value.encode(errors="replace")
        return raw[_check_index(key, len(raw))]
    if isinstance(value, list):
        return value[_check_index(key, len(value))]
    raise TemplateError(f"can't index item of type {get_type_name(value)}")


def _slice(value: object, *indexes: object) -> object:
    if not isinstance(value, str | list):
        raise TemplateError(f"can't slice item of type {get_type_name(value)}")
    if len(indexes) > 2:
        raise TemplateError("cannot 3-index slice a string")
    sequence = value.encode(errors="replace") if isinstance(value, str) else value
    bounds = [_check_index(index, len(sequence) + 1) for index in indexes]
    start, end = (*bounds, 0)[0], bounds[1] if len(bounds) == 2 else len(sequence)
    if start > end:
        raise TemplateError(f"invalid slice index: {start} > {end}")
    part = sequence[start:end]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _get_kind(value: object) -> str:
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
        if isinstance(value, kind):
            return name
    raise TemplateError("invalid type for comparison")


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    return any(_is_equal(first, other) for other in others)


def _to_comparable(value: object) -> object:
    return value.ns if isinstance(value, Duration) and not value.is_pointer else value


def _is_equal(first: object, other: object) -> bool:
    first, other = _to_comparable(first), _to_comparable(other)
    if first is None or other is None:
        return first is other
    if isinstance(first, dict | list):
        raise TemplateError(f"non-comparable type {format_value(first)}: {get_type_name(first)}")
    if _get_kind(first) != _get_kind(other):
        raise TemplateError(_BAD_COMPARISON)
    return bool(first == other)


def _lt(first: object, other: object) -> bool:
    first, other = _to_comparable(first), _to_comparable(other)
    kind = _get_kind(first)
    if kind != _get_kind(other):
        raise TemplateError(_BAD_COMPARISON)
    if kind == "bool":
        raise TemplateError("invalid type for comparison")
    return bool(first < other)  # type: ignore[operator]  # _get_kind ensures that both have the same ordered kind


def _le(first: object, other: object) -> bool:
    return _lt(first, other) or _is_equal(first, other)


def _call(function: object, *_: object) -> object:
    if function is None:
        raise TemplateError("call of nil")
    raise TemplateError(f"non-function of type {get_type_name(function)}")


def _gt(first: object, other: object) -> bool:
    """Compares as Go does with not(<=), so that NaN is greater than everything."""
    return not _le(first, other)


def _print(*args: object) -> str:
    return sprint(args)


def _printf(template: str, *args: object) -> str:
    return sprintf(template, args)


def _println(*args: object) -> str:
    return join_spaced(map(format_value, args)) + "\n"


@cache
def get_builtins() -> Mapping[str, tuple[Callable[..., object], tuple[str, ...], bool]]:
    """
    Maps each name to its function, the Go types of its parameters, and true when the last parameter may repeat.

    `and` and `or` are absent: the interpreter evaluates them itself, argument by argument.
    """
    variadic, unary, binary = (("any",), True), (("any",), False), (("any", "any"), False)
    table: dict[str, tuple[Callable[..., object], tuple[tuple[str, ...], bool]]] = {
        "call": (_call, (("any", "any"), True)),
        "eq": (_eq, (("any", "any"), True)),
        "ge": (lambda a, b: not _lt(a, b), binary),
        "gt": (_gt, binary),
        "html": (_escape_html, variadic),
        "index": (_index, (("any", "any"), True)),
        "js": (_escape_js, variadic),
        "le": (_le, binary),
        "len": (_get_length, unary),
        "lt": (_lt, binary),
        "ne": (lambda a, b: not _is_equal(a, b), binary),
        "not": (lambda a: not is_true(a), unary),
        "print": (_print, variadic),
        "printf": (_printf, (("string", "any"), True)),
        "println": (_println, variadic),
        "slice": (_slice, (("any", "any"), True)),
        "urlquery": (lambda *args: escape_query(_to_text(*args)), variadic),
    }
    return {name: (function, *signature) for name, (function, signature) in table.items()}
