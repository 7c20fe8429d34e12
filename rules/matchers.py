"""
Label matchers: the conditions that a selector, a silence or a route puts on the labels of a series or an alert.

https://prometheus.io/docs/prometheus/latest/querying/basics/#instant-vector-selectors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from weakref import WeakValueDictionary

from collectors import Labels
from rules.patterns import PatternLimitError, compile_bounded

NAME = "__name__"

_MAX_EXCERPT = 200  # characters of a pattern in an error

ValueTest = Callable[[str], bool]
_shared_tests: WeakValueDictionary[tuple[str, str], ValueTest] = WeakValueDictionary()
"""The tests of the regular expressions in use: thousands of rules often have the same few."""


def is_valid_name(text: str) -> bool:
    """True for a name of a label or a metric: since Prometheus 3 any text that UTF-8 can encode, but none is empty."""
    try:
        return bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def compile_pattern(text: str) -> Any:
    """
    Compiles a regular expression of Prometheus: RE2 whose dot matches newline. Raises ValueError if it is invalid.
    """
    try:
        return compile_bounded(text, dot_matches_newline=True)
    except PatternLimitError as error:
        raise PatternLimitError(f'error parsing regexp "{text[:_MAX_EXCERPT]}…": {error}') from error
    except ValueError as error:
        raise ValueError(f'error parsing regexp "{text}": {error}') from error


@dataclass(frozen=True)
class Matcher:
    """One condition on one label; a missing label has the empty value."""

    label: str
    op: Literal["=", "!=", "=~", "!~"]
    value: str

    @cached_property
    def test(self) -> ValueTest:
        """The function that tests a label value."""
        if self.op == "=":
            return self.value.__eq__
        if self.op == "!=":
            return self.value.__ne__
        test = _shared_tests.get((self.op, self.value))
        if test is None:
            test = _shared_tests[self.op, self.value] = _build_pattern_test(self.op, self.value)
        return test


def _build_pattern_test(op: str, pattern: str) -> ValueTest:
    expression = compile_pattern(pattern)
    if op == "=~":
        return lambda value: expression.fullmatch(value) is not None
    return lambda value: expression.fullmatch(value) is None


Matchers = tuple[Matcher, ...]


def find_exact_name(matchers: Matchers) -> str | None:
    """Returns the metric name if the matchers require exactly one."""
    return next((m.value for m in matchers if m.label == NAME and m.op == "="), None)


def matches_name(matchers: Matchers, name: str) -> bool:
    """Returns True if a metric of that name can match."""
    return all(matcher.test(name) for matcher in matchers if matcher.label == NAME)


def build_labels_test(matchers: Matchers) -> Callable[[Labels], bool]:
    """
    Builds the test of the labels of series whose name matches; it runs for each of them when the set of series changes.
    """
    label_matchers = [matcher for matcher in matchers if matcher.label != NAME]
    # Most matchers are equalities, tested first: in one tick a thousand rules may each test four thousand series.
    pairs = [(matcher.label, matcher.value) for matcher in label_matchers if matcher.op == "=" and matcher.value]
    tests = [(matcher.label, matcher.test) for matcher in label_matchers if matcher.op != "=" or not matcher.value]

    def matches(labels: Labels) -> bool:
        for pair in pairs:
            if pair not in labels:
                return False
        if not tests:
            return True
        values = dict(labels)
        return all(test(values.get(label, "")) for label, test in tests)

    return matches
