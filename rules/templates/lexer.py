"""
Cuts the text of a Go template into tokens: https://pkg.go.dev/text/template, src/text/template/parse/lex.go.

Positions count characters from the start of the text; trim markers (`{{-`, `-}}`) and comments are dealt with here.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import NamedTuple

KEYWORDS = frozenset(("block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"))
SPACES = " \t\r\n"

_COMMENT = re.compile(r"\{\{(?:-[ \t\r\n]+)?/\*")
_COMMENT_END = re.compile(r"\*/(?:[ \t\r\n]+-)?\}\}")
_RIGHT = re.compile(r"([ \t\r\n]+-)?\}\}")
_SPACE = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*)?\.?[\d_]*(?:[eE][+-]?[\d_]+)?)")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_CHARACTER = re.compile(r"'(?:[^'\\\n]|\\[^\n])*'")
_RAW = re.compile(r"`[^`]*`")
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)|([^\\]+)", re.DOTALL)
_SIGNS = {"|": "pipe", "=": "assign", "(": "left paren", ")": "right paren"}


class TemplateError(Exception):
    """What is wrong with a template, in the words of Go's text/template."""


class Token(NamedTuple):
    """One piece of a template; `kind` is text, left, right, end of file, or the name of a lexical class."""

    kind: str
    text: str
    position: int
    line: int


class LexicalError(TemplateError):
    """A character that cannot stand where it stands, with its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def tokens(text: str) -> list[Token]:
    """The tokens of a whole template, ended by one of kind `EOF`."""
    return list(_Lexer(text).run())


def unquote(source: str) -> str:
    """The value of a Go string or character literal, quotes included in what is passed; raises ValueError."""
    if source[0] == "`":
        return source[1:-1]
    parts = [_unescaped(escape, plain) for escape, plain in _ESCAPE.findall(source[1:-1])]
    return b"".join(parts).decode(errors="replace")


def _unescaped(escape: str, plain: str) -> bytes:
    if plain:
        return plain.encode(errors="replace")
    if escape in _ESCAPES:
        return bytes([_ESCAPES[escape]])
    if escape[0] in "uU" and len(escape) > 1:
        return chr(int(escape[1:], 16)).encode()
    if escape[0] == "x" and len(escape) > 1:
        return bytes([int(escape[1:], 16)])
    if len(escape) == 3:
        return bytes([int(escape, 8)])
    raise ValueError("invalid syntax")


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.depth = 0

    def run(self) -> Iterator[Token]:
        trim = False
        while self.at < len(self.text):
            left = self.text.find("{{", self.at)
            yield from self.plain(left if left >= 0 else len(self.text), trim)
            trim = False
            if left < 0:
                break
            if _COMMENT.match(self.text, self.at):
                trim = self.comment()
                continue
            yield self.token("left", 2)
            if self.trims_left(self.at):
                self.skip(1)
            trim = yield from self.action()
        yield self.token("EOF", 0)

    def plain(self, end: int, trim: bool) -> Iterator[Token]:
        if trim:
            self.skip(len(self.text[self.at : end]) - len(self.text[self.at : end].lstrip(SPACES)))
        kept = self.text[self.at : end]
        if self.trims_left(end + 2):
            kept = kept.rstrip(SPACES)
        if kept:
            yield Token("text", kept, self.at, self.line)
        self.skip(end - self.at)

    def trims_left(self, at: int) -> bool:
        return self.text[at : at + 1] == "-" and self.text[at + 1 : at + 2] in tuple(SPACES)

    def comment(self) -> bool:
        closed = self.text.find("*/", self.at)
        if closed < 0:
            raise LexicalError(self.line, "unclosed comment")
        end = _COMMENT_END.match(self.text, closed)
        if end is None:
            raise LexicalError(self.line, "comment ends before closing delimiter")
        self.skip(end.end() - self.at)
        return end.group() != "*/}}"

    def action(self) -> Generator[Token, None, bool]:
        while True:
            right = _RIGHT.match(self.text, self.at)
            if right is not None:
                if self.depth > 0:
                    raise LexicalError(self.line, "unclosed left paren")
                yield self.token("right", right.end() - self.at)
                return right.group(1) is not None
            yield self.inside()

    def inside(self) -> Token:
        if self.at >= len(self.text):
            raise LexicalError(self.line, "unclosed action")
        sign = self.text[self.at]
        if space := _SPACE.match(self.text, self.at):
            return self.token("space", space.end() - self.at)
        if sign in "\"`'":
            return self.quoted(sign)
        if sign == ":":
            if not self.text.startswith(":=", self.at):
                raise LexicalError(self.line, "expected :=")
            return self.token("declare", 2)
        if sign == "$" or (sign == "." and not self.text[self.at + 1 : self.at + 2].isdecimal()):
            return self.field_or_variable("variable" if sign == "$" else "field")
        if sign in "+-." or sign.isdecimal():
            return self.number()
        if sign == "_" or sign.isalpha():
            return self.word()
        if " " < sign <= "~":
            return self.punctuation(sign)
        raise LexicalError(self.line, f"unrecognized character in action: {_shown(sign)}")

    def punctuation(self, sign: str) -> Token:
        self.depth += {"(": 1, ")": -1}.get(sign, 0)
        return self.token(_SIGNS.get(sign, "char"), 1)

    def quoted(self, sign: str) -> Token:
        pattern, kind, what = {
            '"': (_QUOTED, "string", "quoted string"),
            "`": (_RAW, "raw string", "raw quoted string"),
            "'": (_CHARACTER, "character", "character constant"),
        }[sign]
        found = pattern.match(self.text, self.at)
        if found is None:
            raise LexicalError(self.line, f"unterminated {what}")
        return self.token(kind, found.end() - self.at)

    def field_or_variable(self, kind: str) -> Token:
        found = _WORD.match(self.text, self.at + 1)
        length = 1 + (len(found.group()) if found else 0)
        self.terminated(self.at + length)
        return self.token("dot" if kind == "field" and length == 1 else kind, length)

    def number(self) -> Token:
        found = _NUMBER.match(self.text, self.at)
        length = found.end() - self.at if found else 0
        after = _WORD.match(self.text, self.at + length)
        written = self.text[self.at : self.at + length] + (after.group() if after else "")
        if after is not None or not any(sign.isdecimal() for sign in written):
            raise LexicalError(self.line, f'bad number syntax: "{written}"')
        return self.token("number", length)

    def word(self) -> Token:
        found = _WORD.match(self.text, self.at)
        word = found.group() if found else ""
        self.terminated(self.at + len(word))
        kind = word if word in KEYWORDS else "bool" if word in ("true", "false") else "identifier"
        return self.token(kind, len(word))

    def terminated(self, at: int) -> None:
        sign = self.text[at : at + 1]
        if sign and sign not in SPACES + ".,|:)(" and not self.text.startswith("}}", at):
            raise LexicalError(self.line, f"bad character {_shown(sign)}")

    def token(self, kind: str, length: int) -> Token:
        made = Token(kind, self.text[self.at : self.at + length], self.at, self.line)
        self.skip(length)
        return made

    def skip(self, length: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + length)
        self.at += length


def _shown(sign: str) -> str:
    return f"U+{ord(sign):04X} {sign!r}" if sign.isprintable() else f"U+{ord(sign):04X}"
