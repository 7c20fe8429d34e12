"""
Splits PromQL text into tokens with their places, as Prometheus does, to say where an expression is wrong.

promql-parser decides what is valid, but it names no place. https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from rules.promql.aggregate import AGGREGATIONS

OPERATORS = frozenset({"and", "or", "unless", "atan2"})
AGGREGATORS = frozenset({*AGGREGATIONS, "limit_ratio", "limitk"})
KEYWORDS = frozenset(("bool", "by", "end", "group_left", "group_right", "ignoring", "offset", "on", "start", "without"))

TEXT = r""""(?:\\.|[^"\\])*+"|'(?:\\.|[^'\\])*+'|`[^`]*+`"""
"""A string that is closed, whatever is in it; `_STRING` is one that Prometheus takes."""

_SPACE = re.compile(r"(?:\s|#[^\n]*)+")
_STRING = re.compile(r""""(?:\\.|[^"\\\n])*+"|'(?:\\.|[^'\\\n])*+'|`[^`]*+`""", re.DOTALL)
_DURATION = r"(?:\d++(?:ms|[smhdwy]))++(?!\w)"
_NUMBER = r"(?:0[xX][\da-fA-F_]*+|(?:\d[\d_]*+(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?\d*+)?+)(?!\w)"
_IN_CODE = re.compile(
    rf"(?P<duration>{_DURATION})|(?P<number>{_NUMBER})|(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r"|(?P<op>[=!<>]=|[-+*/%^<>@])|(?P<mark>=(?!~)|[,(){}\[])",
    re.ASCII,
)
_NUMBER_WORD = re.compile(r"[\w.]+")
_IN_BRACES = re.compile(r"(?P<word>[a-zA-Z_][a-zA-Z0-9_]*)|(?P<op>=~|!~|!=)|(?P<mark>[=,}])", re.ASCII)
_IN_BRACKETS = re.compile(
    rf"(?P<duration>{_DURATION})|(?P<number>{_NUMBER})|(?P<op>[-+*/%^])|(?P<mark>[:\]()])", re.ASCII
)


class Lexeme(NamedTuple):
    """A token with the offset of its first character; the text of a `fault` is a whole sentence."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def describe(self) -> str:
        """Names the token as Prometheus' parse errors do."""
        if self.kind == "end":
            return "end of input"
        if self.kind in ("keyword", "op", "aggr"):
            prefix = "" if self.kind == "keyword" else f"{self.kind}:"
            return f"<{prefix}{self.text}>"
        is_name = self.kind in ("identifier", "metric identifier")
        text = quote(self.text) if is_name or len(self.text) <= 10 else f"{quote(self.text[:10])}..."
        return text if self.kind == "mark" else f"{self.kind} {text}"


def quote(text: str) -> str:
    """Quotes as Go's %q does."""
    return json.dumps(text, ensure_ascii=False)


def scan(text: str) -> Iterator[Lexeme]:
    """Yields the tokens, and last of all the end or the first fault."""
    position, depth, pattern = 0, 0, _IN_CODE
    while True:
        space = _SPACE.match(text, position)
        position = space.end() if space else position
        if position >= len(text):
            yield _describe_end(position, pattern, depth)
            return
        match = (pattern is not _IN_BRACKETS and _STRING.match(text, position)) or pattern.match(text, position)
        if not match:
            yield _describe_fault(text, position, pattern)
            return
        token = _make_token(match, position)
        position = token.end
        if token.kind == "mark":
            if token.text == "}" and pattern is _IN_CODE:
                yield Lexeme("fault", "unexpected character: '}'", token.start)
                return
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth < 0:
                yield Lexeme("fault", "unexpected right parenthesis ')'", position)
                return
            pattern = {"{": _IN_BRACES, "}": _IN_CODE, "[": _IN_BRACKETS, "]": _IN_CODE}.get(token.text, pattern)
        yield token


def _make_token(match: re.Match[str], start: int) -> Lexeme:
    text = match[0]
    kind = match.lastgroup or "string"
    if kind == "word":
        word = text.lower()
        if match.re is _IN_BRACES:
            kind = "identifier"
        elif word in OPERATORS:
            kind = "op"
        elif word in AGGREGATORS:
            kind = "aggr"
        elif word in KEYWORDS:
            kind = "keyword"
        elif word in ("inf", "nan"):
            kind = "number"
        else:
            kind = "metric identifier" if ":" in text else "identifier"
    return Lexeme(kind, text, start)


def _describe_end(position: int, pattern: re.Pattern[str], depth: int) -> Lexeme:
    if pattern is _IN_BRACES:
        return Lexeme("fault", "unexpected end of input inside braces", position)
    if pattern is _IN_BRACKETS:
        return Lexeme("fault", "unclosed left bracket", position)
    return Lexeme("fault", "unclosed left parenthesis", position) if depth else Lexeme("end", "", position)


def _describe_fault(text: str, position: int, pattern: re.Pattern[str]) -> Lexeme:
    character = text[position]
    following = f"'{text[position + 1 : position + 2]}'"
    where = " inside braces" if pattern is _IN_BRACES else ""
    if pattern is not _IN_BRACKETS and character in "\"'`":
        reason = "unterminated raw string" if character == "`" else "unterminated quoted string"
    elif character.isdigit() and not where:
        word = _NUMBER_WORD.match(text, position)
        reason = f"bad number or duration syntax: {quote(word[0] if word else character)}"
    elif pattern is _IN_BRACKETS:
        reason = f"unexpected character inside brackets: '{character}'"
    elif text.startswith("=~", position):
        reason = "unexpected character after '=': '~'"
    elif character == "!":
        reason = f"unexpected character after '!'{where}: {following}"
    elif where and character == "{":
        reason = "unexpected left brace '{'"
    elif character == "]":
        reason = "unexpected right bracket ']'"
    else:
        reason = f"unexpected character{where}: '{character}'"
    return Lexeme("fault", reason, position)
