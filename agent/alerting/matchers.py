"""
Parses label matchers in Alertmanager's notation: `alertname="DimmHot"`, `severity=~"a|b"`, `{a="b", c!=d}`.

Regular expressions are RE2 and match the whole value; a missing label has the empty value.
https://prometheus.io/docs/alerting/latest/configuration/#matcher
"""

from __future__ import annotations

import re
from typing import Literal, cast

from rules.matchers import Matcher, Matchers

Op = Literal["=", "!=", "=~", "!~"]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_BARE = r"""[^\s,{}"'`=!~\\]"""
_MATCHER = re.compile(rf"\s*({_NAME}|{_QUOTED})\s*(=~|!~|!=|=)\s*({_QUOTED}|{_BARE}*)\s*", re.ASCII)
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}


def parse_matchers(text: str) -> Matchers:
    """Parses comma-separated matchers, with or without braces; raises ValueError with a sentence for the user."""
    inner = text.strip()
    if inner.startswith("{") != inner.endswith("}"):
        raise ValueError(f"expected both braces or none, found {text!r}")
    inner = inner[1:-1] if inner.startswith("{") else inner
    parsed: list[Matcher] = []
    position = 0
    while position < len(inner) or not parsed:
        match = _MATCHER.match(inner, position)
        if match is None:
            raise ValueError(f'expected a matcher such as alertname="DimmHot" or severity=~"a|b", found {text!r}')
        label, op, value = match.groups()
        parsed.append(build_matcher(_unquote(label), cast(Op, op), _unquote(value)))
        position = match.end()
        if position < len(inner) and inner[position] != ",":
            raise ValueError(f"expected a comma after {match[0].strip()!r} in {text!r}")
        position += 1
    return tuple(parsed)


def build_matcher(label: str, op: Op, value: str) -> Matcher:
    """Builds a matcher; raises ValueError for an invalid regular expression."""
    matcher = Matcher(label, op, value)
    matcher.test  # noqa: B018  a regular expression that is none is found now, with its ValueError
    return matcher


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text[1:-1])
