"""
Says what is wrong with an escape sequence in a string of PromQL, in the words of Prometheus' lexer.

https://github.com/prometheus/prometheus/blob/main/promql/parser/lex.go, lexEscape
"""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = frozenset("abfnrtv\\")
_KINDS = {"x": (2, 16, 0xFF), "u": (4, 16, 0x10FFFF), "U": (8, 16, 0x10FFFF)}
_OCTAL = (3, 8, 0xFF)


def explain_escape(token: str) -> str:
    """Returns why the first bad escape sequence of a string with its quotes is bad; empty if none is."""
    if not token.startswith(('"', "'")):
        return ""
    position = 1
    while match := _SEQUENCE.search(token, position):
        position = match.end()
        if match[1] in _PLAIN or match[1] == token[0]:
            continue
        if fault := _explain_code(token, match.start(1)):
            return fault
    return ""


def _explain_code(token: str, start: int) -> str:
    """Explains an escape that ends in digits; `start` is the offset of its letter, or of its first octal digit."""
    letter = token[start]
    is_octal = letter in "01234567"
    if not is_octal and letter not in _KINDS:
        return f"unknown escape sequence {_show(letter)}"
    count, base, largest = _OCTAL if is_octal else _KINDS[letter]
    first = start if is_octal else start + 1
    value = 0
    for character in token[first : first + count]:
        if not (character.isascii() and character.isalnum() and int(character, 36) < base):
            return f"illegal character {_show(character)} in escape sequence"
        value = value * base + int(character, base)
    is_code_point = value <= largest and not 0xD800 <= value < 0xE000
    return "" if is_code_point else "escape sequence is an invalid Unicode code point"


def _show(character: str) -> str:
    """Shows a character as Go's %#U does."""
    code = f"U+{ord(character):04X}"
    return f"{code} '{character}'" if character.isprintable() else code
