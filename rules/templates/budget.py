"""Limits the work of templates: a hostile template must neither fill the memory nor delay the tick."""

from __future__ import annotations

from collections.abc import Iterable

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

MAX_PATTERNS = 100
"""Compiled patterns that RE2's Python module still caches; it drops its cache beyond 128."""

MAX_PER_EXPANSION = 4_000_000
"""Cost of one expansion: about a second at worst; an ordinary text takes a thousandth of it."""

MAX_PER_EVALUATION = 32_000_000
"""Cost of all expansions of one evaluation of a rule: some seconds at worst."""

_EXPANSION_EXCEEDED = "the template exceeds its work limit; loop over less or make shorter texts"
_EVALUATION_EXCEEDED = "the templates of this rule exceed their common work limit over all its alerts"


class Budget:
    """The remaining work of the templates in one evaluation of a rule, in processed characters."""

    __slots__ = ("_compiled_patterns", "_remaining", "_shared_remaining")

    def __init__(self) -> None:
        self._shared_remaining = MAX_PER_EVALUATION
        self._remaining = 0
        self._compiled_patterns: set[str] = set()

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

    def charge_pattern(self, pattern: str) -> None:
        """Charges a regular expression before it is compiled."""
        is_compiled = pattern in self._compiled_patterns and len(self._compiled_patterns) <= MAX_PATTERNS
        self.spend(STEP_COST if is_compiled else PATTERN_COST)

    def mark_compiled(self, pattern: str) -> None:
        """Marks a pattern as compiled, so that its next use is cheap. A bad pattern is compiled anew each time."""
        self._compiled_patterns.add(pattern)


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
