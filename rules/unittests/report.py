"""Results of the unit tests of a rule file, one per test, and their text with the differences."""

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
    """The outcome of one item of `alert_rule_test` or `promql_expr_test`."""

    test: str
    """The `name` of the item's test."""
    kind: str
    """`alert` or `expr`."""
    subject: str
    """The alert's name, or the expression."""
    eval_time: str
    """The time as written in the file."""
    expected: tuple[Item, ...]
    actual: tuple[Item, ...] = ()
    ok: bool = False
    error: str | None = None
    has_run: bool = True
    """False when a rule failed before; `error` is then the rule's."""

    @property
    def failure(self) -> str:
        """The error, or the differences: expected items with `-`, actual items with `+`, equal items without sign."""
        subject = f"alertname: {self.subject}" if self.kind == "alert" else f"expr: {quote(self.subject)}"
        heading = f"{format_test_name(self.test)}{subject}, time: {self.eval_time or '0s'}"
        if self.error is not None:
            return f"{heading}, err: {self.error}"
        return "\n".join((f"{heading}:", *_diff_lines(self)))


@dataclass(frozen=True)
class Verdict:
    """The outcome of one test file; success means no failures. `errors` are those of the file or of the rules."""

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
        """True without failures."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"Unit Testing:  {self.path}", *(f"  WARNING: {warning}" for warning in self.warnings)]
        if self.is_passed:
            return "\n".join((*lines, "  SUCCESS"))
        failures = (line for failure in self.failures for line in failure.splitlines())
        return "\n".join((*lines, "  FAILED:", *(f"    {line}" for line in failures)))


def format_test_name(test: str) -> str:
    """Returns the prefix that names the test in a failure; empty for an unnamed test."""
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
        yield "  (expected nothing)"
    if not actual:
        yield "  (got nothing)"


def _number_items(items: Sequence[Item]) -> dict[tuple[Labels, int], Item]:
    """Returns the items by their labels and a number, which tells items with equal labels apart."""
    numbered: dict[tuple[Labels, int], Item] = {}
    for item in sorted(items):
        numbered[item[0], sum(labels == item[0] for labels, _ in numbered)] = item
    return numbered


def _format_alert(item: Item) -> str:
    return f"{format_labels(item[0])} {format_labels(item[1])}"


def _format_sample(item: Item) -> str:
    return f"{format_labels(item[0])} {format_go_float(item[1])}"


def format_labels(labels: Labels) -> str:
    """Formats labels as promtool prints them."""
    name = next((value for label, value in labels if label == "__name__"), "")
    pairs = ", ".join(f"{label}={quote(value)}" for label, value in labels if label != "__name__")
    return f"{name}{{{pairs}}}"


Equal = Callable[[Any, Any], bool]


def compare_result(result: Result, actual_items: Sequence[Item], equal: Equal) -> Result:
    """Returns the result with its actual items; `ok` when both sides have the same labels with equal values."""
    expected, actual = tuple(sorted(result.expected)), tuple(sorted(actual_items))
    pairs = zip(expected, actual, strict=False)
    ok = len(expected) == len(actual) and all(a[0] == b[0] and equal(a[1], b[1]) for a, b in pairs)
    return Result(result.test, result.kind, result.subject, result.eval_time, expected, actual, ok)
