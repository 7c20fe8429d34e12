"""The functions every Go template has: https://pkg.go.dev/text/template#hdr-Functions, src/text/template/funcs.go."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Callable, Mapping
from functools import cache

from rules.templates.lexer import TemplateError
from rules.templates.times import Duration
from rules.templates.values import Strings, joined, shown, spaced, sprintf, type_name

_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
_BAD_COMPARISON = "incompatible types for comparison"


def truth(value: object) -> bool:
    """Go's notion of true: not zero, not empty, not nil."""
    return bool(value)


def escape_query(text: str) -> str:
    """url.QueryEscape: a space becomes `+`."""
    return urllib.parse.quote_plus(text, safe="-_.~", errors="replace")


def _text(*args: object) -> str:
    return args[0] if len(args) == 1 and isinstance(args[0], str) else joined(args)


def _js_sign(sign: str) -> str:
    if sign in _JS:
        return _JS[sign]
    if sign < " " or not sign.isprintable():
        return f"\\u{ord(sign):04X}"
    return sign


def _js(*args: object) -> str:
    return "".join(map(_js_sign, _text(*args)))


def _html(*args: object) -> str:
    escaped = html.escape(_text(*args))
    return escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;").replace("\0", "\ufffd")


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict | list):
        return len(value)
    raise TemplateError(f"len of type {type_name(value)}")


def _position(position: object, length: int) -> int:
    if isinstance(position, bool) or not isinstance(position, int):
        raise TemplateError(f"cannot index slice/array with type {type_name(position)}")
    if not 0 <= position < length:
        raise TemplateError(f"index out of range: {position}")
    return position


def _index(value: object, *keys: object) -> object:
    if value is None:
        raise TemplateError("index of untyped nil")
    for key in keys:
        value = _element(value, key)
    return value


def _element(value: object, key: object) -> object:
    if isinstance(value, Mapping):
        if not isinstance(key, str):
            raise TemplateError(f"value has type {type_name(key)}; should be string")
        return value.get(key, "" if isinstance(value, Strings) else None)
    if isinstance(value, str):
        raw = value.encode(errors="replace")
        return raw[_position(key, len(raw))]
    if isinstance(value, list):
        return value[_position(key, len(value))]
    raise TemplateError(f"can't index item of type {type_name(value)}")


def _slice(value: object, *cuts: object) -> object:
    if not isinstance(value, str | list):
        raise TemplateError(f"can't slice item of type {type_name(value)}")
    if len(cuts) > 2:
        raise TemplateError("cannot 3-index slice a string")
    whole = value.encode(errors="replace") if isinstance(value, str) else value
    bounds = [_position(cut, len(whole) + 1) for cut in cuts]
    start, end = (*bounds, 0)[0], bounds[1] if len(bounds) == 2 else len(whole)
    if start > end:
        raise TemplateError(f"invalid slice index: {start} > {end}")
    part = whole[start:end]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _kind(value: object) -> str:
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
        if isinstance(value, kind):
            return name
    raise TemplateError("invalid type for comparison")


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    return any(_equal(first, other) for other in others)


def _bare(value: object) -> object:
    return value.ns if isinstance(value, Duration) and not value.pointer else value


def _equal(first: object, other: object) -> bool:
    first, other = _bare(first), _bare(other)
    if first is None or other is None:
        return first is other
    if isinstance(first, dict | list):
        raise TemplateError(f"non-comparable type {shown(first)}: {type_name(first)}")
    if _kind(first) != _kind(other):
        raise TemplateError(_BAD_COMPARISON)
    return bool(first == other)


def _lt(first: object, other: object) -> bool:
    first, other = _bare(first), _bare(other)
    kind = _kind(first)
    if kind != _kind(other):
        raise TemplateError(_BAD_COMPARISON)
    if kind == "bool":
        raise TemplateError("invalid type for comparison")
    return bool(first < other)  # type: ignore[operator]  # both are of one ordered kind: _kind saw to it


def _le(first: object, other: object) -> bool:
    return _lt(first, other) or _equal(first, other)


def _call(function: object, *_: object) -> object:
    if function is None:
        raise TemplateError("call of nil")
    raise TemplateError(f"non-function of type {type_name(function)}")


def _gt(first: object, other: object) -> bool:
    """Go has it as not(<=), so that NaN is greater than everything."""
    return not _le(first, other)


def _print(*args: object) -> str:
    return joined(args)


def _printf(template: str, *args: object) -> str:
    return sprintf(template, args)


def _println(*args: object) -> str:
    return spaced(map(shown, args)) + "\n"


@cache
def builtins() -> Mapping[str, tuple[Callable[..., object], tuple[str, ...], bool]]:
    """
    Name to (function, its parameters' Go types, whether the last may repeat).

    `and` and `or` are not here: the interpreter evaluates them itself, argument by argument.
    """
    many, one, two = (("any",), True), (("any",), False), (("any", "any"), False)
    table: dict[str, tuple[Callable[..., object], tuple[tuple[str, ...], bool]]] = {
        "call": (_call, (("any", "any"), True)),
        "eq": (_eq, (("any", "any"), True)),
        "ge": (lambda a, b: not _lt(a, b), two),
        "gt": (_gt, two),
        "html": (_html, many),
        "index": (_index, (("any", "any"), True)),
        "js": (_js, many),
        "le": (_le, two),
        "len": (_length, one),
        "lt": (_lt, two),
        "ne": (lambda a, b: not _equal(a, b), two),
        "not": (lambda a: not truth(a), one),
        "print": (_print, many),
        "printf": (_printf, (("string", "any"), True)),
        "println": (_println, many),
        "slice": (_slice, (("any", "any"), True)),
        "urlquery": (lambda *args: escape_query(_text(*args)), many),
    }
    return {name: (function, *signature) for name, (function, signature) in table.items()}
