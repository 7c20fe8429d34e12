"""
Label matchers: the conditions that a selector, a silence or a route puts on the labels of a series or an alert.

https://prometheus.io/docs/prometheus/latest/querying/basics/#instant-vector-selectors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import re2

from collectors import Labels

NAME = "__name__"


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
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True
    try:
        return re2.compile(text, options=options)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f'error parsing regexp "{text}": {reason}') from error


@dataclass(frozen=True)
class Matcher:
    """One condition on one label; a missing label has the empty value."""

    label: str
    op: Literal["=", "!=", "=~", "!~"]
    value: str

    @cached_property
    def test(self) -> Callable[[str], bool]:
        """The function that tests a label value."""
        if self.op == "=":
            return self.value.__eq__
        if self.op == "!=":
            return self.value.__ne__
        expression = compile_pattern(self.value)
        if self.op == "=~":
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
