"""Makes foreign text safe for a terminal: escapes characters that would move its cursor, colour it or command it."""

from __future__ import annotations

import re
import unicodedata

_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""https://www.unicode.org/reports/tr44/#General_Category_Values; Cf includes those that reverse the text."""


def escape_line(text: str) -> str:
    r"""Returns one line with control characters as `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in _CONTROLS else char for char in text)


def escape_lines(text: str) -> str:
    """Escapes like `escape_line`, but keeps line ends and tabs."""
    return re.sub(r"[^\n\t]+", lambda piece: escape_line(piece[0]), text)
