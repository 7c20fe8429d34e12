"""
Checks the size of the regular expressions in a query's text before the text is parsed.

promql-parser compiles each of them too, in Rust and without a limit for all together: a query of 20 KB took a gigabyte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser

from rules.matchers import compile_pattern
from rules.patterns import PatternAllowance, PatternLimitError
from rules.promql.plan import PromqlError

# Possessive, and also closed by the end of the text, so that no text makes the search backtrack.
TEXT_OR_COMMENT = (
    r"""(?P<text>"(?:\\.|[^"\\])*+(?:"|\\?\Z)|'(?:\\.|[^'\\])*+(?:'|\\?\Z)|`[^`]*+(?:`|\Z))|(?P<comment>\#[^\n]*)"""
)
_TOKEN = re.compile(TEXT_OR_COMMENT + r"|(?P<match>[=!]~)|\S", re.DOTALL)


def check_pattern_sizes(text: str) -> None:
    """Raises PromqlError if the regular expressions of an expression are too large; an invalid one is passed over."""
    allowance = PatternAllowance()
    for pattern in _iter_patterns(text):
        try:
            allowance.spend(pattern, compile_pattern(pattern))
        except PatternLimitError as error:
            raise PromqlError(f"parse error: {error}") from error
        except ValueError:
            continue  # the parser tells more about it


def _iter_patterns(text: str) -> Iterator[str]:
    """Yields the value of each string after `=~` or `!~`."""
    after_match = False
    for token in _TOKEN.finditer(text):
        if token["comment"]:
            continue
        if token["text"] and after_match:
            try:
                literal = promql_parser.parse(token[0])
            except ValueError:
                return  # no string, so the whole text is invalid
            assert isinstance(literal, promql_parser.StringLiteral)  # of a token that is a string and nothing else
            yield literal.val
        after_match = bool(token["match"])
