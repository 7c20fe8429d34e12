"""What templates may cost: a hostile one must neither fill the memory nor hold up the tick."""

from __future__ import annotations

from collections.abc import Iterable

from rules.templates.lexer import TemplateError

MAX_TEXT_LENGTH = 1 << 20
"""Characters of one text, be it made on the way or what a whole expansion writes."""

STEP_COST = 16
"""A node, an argument, an element of a loop: in the time, 16 characters could be put in upper case."""

QUERY_COST = 1_000
"""A query before it looks at anything; what it looks at is bounded by the language's own Effort."""

SAMPLE_COST = 50
"""One sample of a query's answer, which is held as an object with its labels."""

PATTERN_COST = 20_000
"""A regular expression that is new and must be compiled; RE2 takes milliseconds for some short ones."""

MATCH_COST = 32
"""One place that a regular expression is found at."""

MAX_PATTERNS = 100
"""So many that were compiled are still known to RE2's Python module, which forgets beyond 128."""

MAX_PER_EXPANSION = 4_000_000
"""Of one expansion: about a second at worst, a thousandth of it for a text that people write."""

MAX_PER_EVALUATION = 32_000_000
"""Of all expansions that one evaluation of a rule asks for: some seconds at worst."""


_EXPANSION_EXCEEDED = "the template does more work than one may; loop over less or make shorter texts"
_EVALUATION_EXCEEDED = "the templates of this rule do more work, over all its alerts, than they may together"


class Budget:
    """What the templates of one evaluation of a rule may still cost, in characters touched."""

    __slots__ = ("_compiled_patterns", "_remaining", "_shared_remaining")

    def __init__(self) -> None:
        self._shared_remaining = MAX_PER_EVALUATION
        self._remaining = 0
        self._compiled_patterns: set[str] = set()

    def begin_expansion(self) -> None:
        """Before each expansion."""
        total = self._shared_remaining + self._remaining
        self._remaining = min(total, MAX_PER_EXPANSION)
        self._shared_remaining = total - self._remaining

    def spend(self, cost: int) -> None:
        """Before work that costs so much; TemplateError where too little is left."""
        self._remaining -= cost
        if self._remaining < 0:
            raise TemplateError(_EXPANSION_EXCEEDED if self._shared_remaining else _EVALUATION_EXCEEDED)

    def charge_value(self, value: object) -> None:
        """For a value that a function is given or gives; no deeper than its own length, which needs no walk."""
        if isinstance(value, str | dict):
            self.spend(len(value))
        elif isinstance(value, list):
            self.spend(SAMPLE_COST * len(value))

    def charge_pattern(self, pattern: str) -> None:
        """Before a regular expression is compiled."""
        is_compiled = pattern in self._compiled_patterns and len(self._compiled_patterns) <= MAX_PATTERNS
        self.spend(STEP_COST if is_compiled else PATTERN_COST)

    def mark_compiled(self, pattern: str) -> None:
        """After it was: the next time costs little. What fails is compiled anew each time."""
        self._compiled_patterns.add(pattern)


def join_bounded(pieces: Iterable[str]) -> str:
    """The pieces as one text; TemplateError as soon as it would be too long."""
    out: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_TEXT_LENGTH:
            raise TemplateError(f"a text would be longer than {MAX_TEXT_LENGTH:,} characters")
        out.append(piece)
    return "".join(out)
