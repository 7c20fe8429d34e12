"""What the unit tests of a rule file showed: one result per test, and as text with what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors import Labels
from rules.templates.values import format_go_float, quote

Item = tuple[Labels, Any]
"""An alert with its annotations, or a sample with its value."""


@dataclass(frozen=True)
class Result:
    """How one item of `alert_rule_test` or `promql_expr_test` went."""

    test: str
    """The `name` of the test it belongs to."""
    kind: str
    """`alert` or `expr`."""
    subject: str
    """The alert's name, or the expression."""
    eval_time: str
    """As the file has it."""
    expected: tuple[Item, ...]
    actual: tuple[Item, ...] = ()
    ok: bool = False
    error: str | None = None
    has_run: bool = True
    """False where a rule had failed before; `error` is the rule's."""

    @property
    def failure(self) -> str:
        """What is wrong, and what was expected (-) and got (+); what is right stands without a sign."""
        subject = f"alertname: {self.subject}" if self.kind == "alert" else f"expr: {quote(self.subject)}"
        heading = f"{format_test_name(self.test)}{subject}, time: {self.eval_time or '0s'}"
        if self.error is not None:
            return f"{heading}, err: {self.error}"
        return "\n".join((f"{heading}:", *_diff_lines(self)))


@dataclass(frozen=True)
class Verdict:
    """How the tests of one file went; no failures is success. `errors` are of no test: the file's or the rules' own."""

    path: Path
    results: tuple[Result, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """Every error and every failed test."""
        return (*self.errors, *(result.failure for result in self.results if result.has_run and not result.ok))

    @property
    def is_passed(self) -> bool:
        """Whether all is well."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"Unit Testing:  {self.path}", *(f"  WARNING: {warning}" for warning in self.warnings)]
        if self.is_passed:
            return "\n".join((*lines, "  SUCCESS"))
        failures = (line for failure in self.failures for line in failure.splitlines())
        return "\n".join((*lines, "  FAILED:", *(f"    {line}" for line in failures)))


def format_test_name(test: str) -> str:
    """How a failure says which test it is of."""
    return f"name: {test}, " if test else ""


def _diff_lines(result: Result) -> Iterator[str]:
    format_item = _format_alert if result.kind == "alert" else _format_sample
    expected, actual = _number_items(result.expected), _number_items(result.actual)
    for key in sorted(expected.keys() | actual.keys()):
        before, after = (format_item(side[key]) if key in side else None for side in (expected, actual))
        if before == after:
            yield f"    {after}"
            continue
        yield from (f"  - {before}",) if before is not None else ()
        yield from (f"  + {after}",) if after is not None else ()
    if not expected:
        yield "  (nothing was expected)"
    if not actual:
        yield "  (nothing was got)"


def _number_items(items: Sequence[Item]) -> dict[tuple[Labels, int], Item]:
    """The items by their labels; those that share theirs by their place among themselves, too."""
    numbered: dict[tuple[Labels, int], Item] = {}
    for item in sorted(items):
        numbered[item[0], sum(labels == item[0] for labels, _ in numbered)] = item
    return numbered


def _format_alert(item: Item) -> str:
    return f"{format_labels(item[0])} {format_labels(item[1])}"


def _format_sample(item: Item) -> str:
    return f"{format_labels(item[0])} {format_go_float(item[1])}"


def format_labels(labels: Labels) -> str:
    """Labels as promtool prints them."""
    name = next((value for label, value in labels if label == "__name__"), "")
    pairs = ", ".join(f"{label}={quote(value)}" for label, value in labels if label != "__name__")
    return f"{name}{{{pairs}}}"


Equal = Callable[[Any, Any], bool]


def compare_result(result: Result, actual_items: Sequence[Item], equal: Equal) -> Result:
    """The result with what was got; it is right where both sides have the same labels with equal values."""
    expected, actual = tuple(sorted(result.expected)), tuple(sorted(actual_items))
    pairs = zip(expected, actual, strict=False)
    ok = len(expected) == len(actual) and all(a[0] == b[0] and equal(a[1], b[1]) for a, b in pairs)
    return Result(result.test, result.kind, result.subject, result.eval_time, expected, actual, ok)
