"""
Checks what a query's text would make promql-parser take, before it is parsed.

promql-parser compiles the regular expressions of selectors itself, and its Python objects hold a copy of all that is
below at each level. 47 KB of text took 900 MB, in one call that nothing interrupts.
"""

from __future__ import annotations

import re

import promql_parser

from rules.matchers import compile_pattern
from rules.patterns import PatternAllowance, PatternLimitError
from rules.promql.plan import PromqlError

MAX_WORD_COPIES = 400_000
"""Names, numbers and strings times levels; each copy takes about 80 bytes."""

MAX_PATTERN_COPIES = 20_000
"""Regular expressions times levels; each copy takes about 2 KB."""

# Possessive, and also closed by the end of the text, so that no text makes the search backtrack.
_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*+(?:"|\\?\Z)|'(?:\\.|[^'\\])*+(?:'|\\?\Z)|`[^`]*+(?:`|\Z))|(?P<comment>\#[^\n]*)"""
    r"|(?P<match>[=!]~)|(?P<word>[\w.:]++)|\S",
    re.DOTALL,
)


def check_parser_limits(text: str, depth: int) -> None:
    """
    Raises PromqlError if the expression would take too much memory; `depth` is an upper bound of its levels.

    An invalid regular expression is passed over: the parser tells more about it.
    """
    words, patterns = _scan(text)
    if words * depth > MAX_WORD_COPIES or len(patterns) * depth > MAX_PATTERN_COPIES:
        raise PromqlError(
            f"parse error: the expression has {words:,} names and values and {len(patterns):,} regular expressions in "
            f"up to {depth} levels, which is too much together; use fewer, or split it into rules"
        )
    allowance = PatternAllowance()
    for pattern in patterns:
        try:
            allowance.spend(pattern, compile_pattern(pattern))
        except PatternLimitError as error:
            raise PromqlError(f"parse error: {error}") from error
        except ValueError:
            continue  # the parser refuses it, with its place in the text


def _scan(text: str) -> tuple[int, list[str]]:
    """Counts the names, numbers and strings, and returns the value of each string after `=~` or `!~`."""
    words, patterns, after_match = 0, [], False
    for token in _TOKEN.finditer(text):
        if token["comment"]:
            continue
        words += bool(token["text"] or token["word"])
        if token["text"] and after_match:
            pattern = _unquote(token[0])
            if pattern is None:
                break  # the parser stops here too
            patterns.append(pattern)
        after_match = bool(token["match"])
    return words, patterns


def _unquote(text: str) -> str | None:
    """Returns the value of a quoted string; None if it is invalid."""
    if text[0] == "`":
        return text[1:-1]
    try:
        literal = promql_parser.parse(text)
    except ValueError:
        return None
    return literal.val if isinstance(literal, promql_parser.StringLiteral) else None
