"""
Cuts the text of a Go template into tokens: https://pkg.go.dev/text/template, src/text/template/parse/lex.go.

Positions count characters from the start of the text. The lexer also handles trim markers (`{{-`, `-}}`) and comments.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import NamedTuple

KEYWORDS = frozenset(("block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"))
SPACES = " \t\r\n"

_COMMENT = re.compile(r"\{\{(?:-[ \t\r\n]+)?/\*")
_COMMENT_END = re.compile(r"\*/(?:[ \t\r\n]+-)?\}\}")
_RIGHT_DELIMITER = re.compile(r"([ \t\r\n]+-)?\}\}")
_SPACE = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]+(?:\.?[0-9a-fA-F_]*[pP][+-]?[\d_]+)?|0[oO][0-7_]+|0[bB][01_]+"
    r"|(?:\d[\d_]*)?\.?[\d_]*(?:[eE][+-]?[\d_]+)?)"
)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_CHARACTER = re.compile(r"'(?:[^'\\\n]|\\[^\n])*'")
_RAW_STRING = re.compile(r"`[^`]*`")
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)|([^\\]+)", re.DOTALL)
_PUNCTUATION = {"|": "pipe", "=": "assign", "(": "left paren", ")": "right paren"}


class TemplateError(Exception):
    """An error of a template, with the message of Go's text/template."""


class Token(NamedTuple):
    """One piece of a template; `kind` is text, left, right, EOF, or the name of a lexical class."""

    kind: str
    text: str
    position: int
    line: int


class LexicalError(TemplateError):
    """A misplaced character, with its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def tokenize(text: str) -> list[Token]:
    """Returns the tokens of a whole template, the last of kind `EOF`."""
    return list(_Lexer(text).run())


def unquote(source: str) -> str:
    """Returns the value of a Go string or character literal, given with its quotes; raises ValueError."""
    if source[0] == "`":
        return source[1:-1]
    parts = [_unescape(escape, plain) for escape, plain in _ESCAPE.findall(source[1:-1])]
    return b"".join(parts).decode(errors="replace")


def _unescape(escape: str, plain: str) -> bytes:
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
        self.position = 0
        self.line = 1
        self.depth = 0

    def run(self) -> Iterator[Token]:
        trim = False
        while self.position < len(self.text):
            action_start = self.text.find("{{", self.position)
            yield from self.lex_text(action_start if action_start >= 0 else len(self.text), trim)
            trim = False
            if action_start < 0:
                break
            if _COMMENT.match(self.text, self.position):
                trim = self.lex_comment()
                continue
            yield self.make_token("left", 2)
            if self.has_left_trim(self.position):
                self.skip(1)
            trim = yield from self.lex_action()
        yield self.make_token("EOF", 0)

    def lex_text(self, end: int, trim: bool) -> Iterator[Token]:
        if trim:
            self.skip(len(self.text[self.position : end]) - len(self.text[self.position : end].lstrip(SPACES)))
        text = self.text[self.position : end]
        if self.has_left_trim(end + 2):
            text = text.rstrip(SPACES)
        if text:
            yield Token("text", text, self.position, self.line)
        self.skip(end - self.position)

    def has_left_trim(self, position: int) -> bool:
        return self.text[position : position + 1] == "-" and self.text[position + 1 : position + 2] in tuple(SPACES)

    def lex_comment(self) -> bool:
        comment_end = self.text.find("*/", self.position)
        if comment_end < 0:
            raise LexicalError(self.line, "unclosed comment")
        end = _COMMENT_END.match(self.text, comment_end)
        if end is None:
            raise LexicalError(self.line, "comment ends before closing delimiter")
        self.skip(end.end() - self.position)
        return end.group() != "*/}}"

    def lex_action(self) -> Generator[Token, None, bool]:
        while True:
            right = _RIGHT_DELIMITER.match(self.text, self.position)
            if right is not None:
                if self.depth > 0:
                    raise LexicalError(self.line, "unclosed left paren")
                yield self.make_token("right", right.end() - self.position)
                return right.group(1) is not None
            yield self.lex_inside_action()

    def lex_inside_action(self) -> Token:
        if self.position >= len(self.text):
            raise LexicalError(self.line, "unclosed action")
        character = self.text[self.position]
        if space := _SPACE.match(self.text, self.position):
            return self.make_token("space", space.end() - self.position)
        if character in "\"`'":
            return self.lex_quoted(character)
        if character == ":":
            if not self.text.startswith(":=", self.position):
                raise LexicalError(self.line, "expected :=")
            return self.make_token("declare", 2)
        if character == "$" or (character == "." and not self.text[self.position + 1 : self.position + 2].isdecimal()):
            return self.lex_field_or_variable("variable" if character == "$" else "field")
        if character in "+-." or character.isdecimal():
            return self.lex_number()
        if character == "_" or character.isalpha():
            return self.lex_word()
        if " " < character <= "~":
            return self.lex_punctuation(character)
        raise LexicalError(self.line, f"unrecognized character in action: {_describe_character(character)}")

    def lex_punctuation(self, character: str) -> Token:
        self.depth += {"(": 1, ")": -1}.get(character, 0)
        return self.make_token(_PUNCTUATION.get(character, "char"), 1)

    def lex_quoted(self, character: str) -> Token:
        pattern, kind, description = {
            '"': (_QUOTED, "string", "quoted string"),
            "`": (_RAW_STRING, "raw string", "raw quoted string"),
            "'": (_CHARACTER, "character", "character constant"),
        }[character]
        match = pattern.match(self.text, self.position)
        if match is None:
            raise LexicalError(self.line, f"unterminated {description}")
        return self.make_token(kind, match.end() - self.position)

    def lex_field_or_variable(self, kind: str) -> Token:
        match = _WORD.match(self.text, self.position + 1)
        length = 1 + (len(match.group()) if match else 0)
        self.check_terminator(self.position + length)
        return self.make_token("dot" if kind == "field" and length == 1 else kind, length)

    def lex_number(self) -> Token:
        match = _NUMBER.match(self.text, self.position)
        length = match.end() - self.position if match else 0
        trailing = _WORD.match(self.text, self.position + length)
        literal = self.text[self.position : self.position + length] + (trailing.group() if trailing else "")
        if trailing is not None or not any(character.isdecimal() for character in literal):
            raise LexicalError(self.line, f'bad number syntax: "{literal}"')
        return self.make_token("number", length)

    def lex_word(self) -> Token:
        match = _WORD.match(self.text, self.position)
        word = match.group() if match else ""
        self.check_terminator(self.position + len(word))
        kind = word if word in KEYWORDS else "bool" if word in ("true", "false") else "identifier"
        return self.make_token(kind, len(word))

    def check_terminator(self, position: int) -> None:
        character = self.text[position : position + 1]
        if character and character not in SPACES + ".,|:)(" and not self.text.startswith("}}", position):
            raise LexicalError(self.line, f"bad character {_describe_character(character)}")

    def make_token(self, kind: str, length: int) -> Token:
        token = Token(kind, self.text[self.position : self.position + length], self.position, self.line)
        self.skip(length)
        return token

    def skip(self, length: int) -> None:
        self.line += self.text.count("\n", self.position, self.position + length)
        self.position += length


def _describe_character(character: str) -> str:
    return f"U+{ord(character):04X} {character!r}" if character.isprintable() else f"U+{ord(character):04X}"
