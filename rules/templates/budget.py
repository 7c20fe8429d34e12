"""Limits the work of templates: a hostile template must neither fill the memory nor delay the tick."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rules.patterns import PatternCache, compile_bounded
from rules.templates.lexer import TemplateError

MAX_TEXT_LENGTH = 1 << 20
"""Characters of one text: an intermediate value, or the output of a whole expansion."""

STEP_COST = 16
"""Cost of a node, an argument or a loop element: the time to convert 16 characters to upper case."""

QUERY_COST = 1_000
"""Cost of a query before it reads samples; PromQL's own Effort bounds the samples."""

SAMPLE_COST = 50
"""Cost of one sample of a query's result, an object with its labels."""

PATTERN_COST = 20_000
"""Cost of compiling a new regular expression; RE2 takes milliseconds for some short ones."""

MATCH_COST = 32
"""Cost of one match of a regular expression."""

MAX_PATTERN_BYTES = 4 << 20
"""Compiled patterns that one evaluation of a rule keeps; of more, those used longest ago are compiled again."""

MAX_PER_EXPANSION = 4_000_000
"""Cost of one expansion: about a second at worst; an ordinary text takes a thousandth of it."""

MAX_PER_EVALUATION = 32_000_000
"""Cost of all expansions of one evaluation of a rule: some seconds at worst."""

_EXPANSION_EXCEEDED = "the template exceeds its work limit; loop over less or make shorter texts"
_EVALUATION_EXCEEDED = "the templates of this rule exceed their common work limit over all its alerts"


class Budget:
    """The remaining work of the templates in one evaluation of a rule, in processed characters."""

    __slots__ = ("_patterns", "_remaining", "_shared_remaining")

    def __init__(self) -> None:
        self._shared_remaining = MAX_PER_EVALUATION
        self._remaining = 0
        self._patterns = PatternCache(MAX_PATTERN_BYTES)

    def begin_expansion(self) -> None:
        """Refills the budget of one expansion from the shared budget; called before each expansion."""
        total = self._shared_remaining + self._remaining
        self._remaining = min(total, MAX_PER_EXPANSION)
        self._shared_remaining = total - self._remaining

    def spend(self, cost: int) -> None:
        """Charges work before it is done; raises TemplateError when too little is left."""
        self._remaining -= cost
        if self._remaining < 0:
            raise TemplateError(_EXPANSION_EXCEEDED if self._shared_remaining else _EVALUATION_EXCEEDED)

    def charge_value(self, value: object) -> None:
        """Charges an argument or a result of a function by its length alone, without a walk into its elements."""
        if isinstance(value, str | dict):
            self.spend(len(value))
        elif isinstance(value, list):
            self.spend(SAMPLE_COST * len(value))

    def compile_pattern(self, pattern: str) -> Any:
        """
        Charges a regular expression, and compiles it unless its last use was a short while before.

        A bad pattern raises ValueError with the reason; its next use is charged in full again.
        """
        compiled = self._patterns.find(pattern)
        if compiled is not None:
            self.spend(STEP_COST)
            return compiled
        self.spend(PATTERN_COST)
        compiled = compile_bounded(pattern, dot_matches_newline=False, allows_large=False)
        self._patterns.add(pattern, compiled)
        return compiled


def join_bounded(pieces: Iterable[str]) -> str:
    """Joins the pieces; raises TemplateError as soon as the text is too long."""
    out: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_TEXT_LENGTH:
            raise TemplateError(f"a text has more than {MAX_TEXT_LENGTH:,} characters")
        out.append(piece)
    return "".join(out)
