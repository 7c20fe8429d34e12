"""What the unit tests of a rule file showed: one result per test, and as text with what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collectors import Labels
from rules.templates.values import go_float, quoted

Item = tuple[Labels, Any]
"""An alert with its annotations, or a sample with its value."""


@dataclass(frozen=True)
class Result:
    """How one item of `alert_rule_test` or `promql_expr_test` went."""

    test: str
    """The `name` of the test it belongs to."""
    kind: str
    """`alert` or `expr`."""
    asked: str
    """The alert's name, or the expression."""
    eval_time: str
    """As the file has it."""
    expected: tuple[Item, ...]
    got: tuple[Item, ...] = ()
    ok: bool = False
    error: str | None = None
    ran: bool = True
    """False where a rule had failed before; `error` is the rule's."""

    @property
    def failure(self) -> str:
        """What is wrong, and what was expected (-) and got (+); what is right stands without a sign."""
        what = f"alertname: {self.asked}" if self.kind == "alert" else f"expr: {quoted(self.asked)}"
        where = f"{named(self.test)}{what}, time: {self.eval_time or '0s'}"
        if self.error is not None:
            return f"{where}, err: {self.error}"
        return "\n".join((f"{where}:", *_difference(self)))


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
        return (*self.errors, *(result.failure for result in self.results if result.ran and not result.ok))

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"Unit Testing:  {self.path}", *(f"  WARNING: {warning}" for warning in self.warnings)]
        if self.passed:
            return "\n".join((*lines, "  SUCCESS"))
        failures = (line for failure in self.failures for line in failure.splitlines())
        return "\n".join((*lines, "  FAILED:", *(f"    {line}" for line in failures)))


def named(test: str) -> str:
    """How a failure says which test it is of."""
    return f"name: {test}, " if test else ""


def _difference(result: Result) -> Iterator[str]:
    show = _shown_alert if result.kind == "alert" else _shown_sample
    expected, got = _numbered(result.expected), _numbered(result.got)
    for key in sorted(expected.keys() | got.keys()):
        before, after = (show(side[key]) if key in side else None for side in (expected, got))
        if before == after:
            yield f"    {after}"
            continue
        yield from (f"  - {before}",) if before is not None else ()
        yield from (f"  + {after}",) if after is not None else ()
    if not expected:
        yield "  (nothing was expected)"
    if not got:
        yield "  (nothing was got)"


def _numbered(items: Sequence[Item]) -> dict[tuple[Labels, int], Item]:
    """The items by their labels; those that share theirs by their place among themselves, too."""
    placed: dict[tuple[Labels, int], Item] = {}
    for item in sorted(items):
        placed[item[0], sum(labels == item[0] for labels, _ in placed)] = item
    return placed


def _shown_alert(item: Item) -> str:
    return f"{shown(item[0])} {shown(item[1])}"


def _shown_sample(item: Item) -> str:
    return f"{shown(item[0])} {go_float(item[1])}"


def shown(labels: Labels) -> str:
    """Labels as promtool prints them."""
    name = next((value for label, value in labels if label == "__name__"), "")
    pairs = ", ".join(f"{label}={quoted(value)}" for label, value in labels if label != "__name__")
    return f"{name}{{{pairs}}}"


Equal = Callable[[Any, Any], bool]


def compared(result: Result, got: Sequence[Item], equal: Equal) -> Result:
    """The result with what was got; it is right where both sides have the same labels with equal values."""
    expected, found = tuple(sorted(result.expected)), tuple(sorted(got))
    pairs = zip(expected, found, strict=False)
    ok = len(expected) == len(found) and all(a[0] == b[0] and equal(a[1], b[1]) for a, b in pairs)
    return Result(result.test, result.kind, result.asked, result.eval_time, expected, found, ok)
