"""Text of others for a terminal: what would move its cursor, colour it or talk to it is shown instead of done."""

from __future__ import annotations

import re
import unicodedata

_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""https://www.unicode.org/reports/tr44/#General_Category_Values: those that turn the direction of writing, too."""


def escape_line(text: str) -> str:
    r"""One line, with what controls a terminal as `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in _CONTROLS else char for char in text)


def escape_lines(text: str) -> str:
    """The same for text of several lines, which stay lines, and whose tabs stay tabs."""
    return re.sub(r"[^\n\t]+", lambda piece: escape_line(piece[0]), text)
