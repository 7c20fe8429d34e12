"""What templates may cost: a hostile one must neither fill the memory nor hold up the tick."""

from __future__ import annotations

from collections.abc import Iterable

from rules.templates.lexer import TemplateError

LONGEST = 1 << 20
"""Characters of one text, be it made on the way or what a whole expansion writes."""

STEP = 16
"""A node, an argument, an element of a loop: in the time, 16 characters could be put in upper case."""

QUERY = 1_000
"""A query before it looks at anything; what it looks at is bounded by the language's own Effort."""

SAMPLE = 50
"""One sample of a query's answer, which is held as an object with its labels."""

PATTERN = 20_000
"""A regular expression that is new and must be compiled; RE2 takes milliseconds for some short ones."""

MATCH = 32
"""One place that a regular expression is found at."""

MOST_PATTERNS = 100
"""So many that were compiled are still known to RE2's Python module, which forgets beyond 128."""

MOST_EACH = 4_000_000
"""Of one expansion: about a second at worst, a thousandth of it for a text that people write."""

MOST_TOGETHER = 32_000_000
"""Of all expansions that one evaluation of a rule asks for: some seconds at worst."""


_TOO_MUCH = "the template does more work than one may; loop over less or make shorter texts"
_TOO_MUCH_TOGETHER = "the templates of this rule do more work, over all its alerts, than they may together"


class Budget:
    """What the templates of one evaluation of a rule may still cost, in characters touched."""

    __slots__ = ("_left", "_patterns", "_together")

    def __init__(self) -> None:
        self._together = MOST_TOGETHER
        self._left = 0
        self._patterns: set[str] = set()

    def begin(self) -> None:
        """Before each expansion."""
        both = self._together + self._left
        self._left = min(both, MOST_EACH)
        self._together = both - self._left

    def spend(self, units: int) -> None:
        """Before work that costs so much; TemplateError where too little is left."""
        self._left -= units
        if self._left < 0:
            raise TemplateError(_TOO_MUCH if self._together else _TOO_MUCH_TOGETHER)

    def take(self, value: object) -> None:
        """For a value that a function is given or gives; no deeper than its own length, which needs no walk."""
        if isinstance(value, str | dict):
            self.spend(len(value))
        elif isinstance(value, list):
            self.spend(SAMPLE * len(value))

    def compile(self, pattern: str) -> None:
        """Before a regular expression is compiled."""
        known = pattern in self._patterns and len(self._patterns) <= MOST_PATTERNS
        self.spend(STEP if known else PATTERN)

    def compiled(self, pattern: str) -> None:
        """After it was: the next time costs little. What fails is compiled anew each time."""
        self._patterns.add(pattern)


def bounded(pieces: Iterable[str]) -> str:
    """The pieces as one text; TemplateError as soon as it would be too long."""
    out: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > LONGEST:
            raise TemplateError(f"a text would be longer than {LONGEST:,} characters")
        out.append(piece)
    return "".join(out)
