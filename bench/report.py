"""The result of a row, and its formats: figures with units, budgets and verdicts, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `budget` is its upper limit."""

    what: str
    value: float
    unit: str
    budget: float | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """`inside` or `outside` of the budget, empty without a budget."""
        if self.budget is None:
            return ""
        return "inside" if self.value <= self.budget else "outside"


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """The result of one row; `skipped` is the reason why there are no figures."""

    name: str
    about: str
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def is_over_budget(self) -> bool:
        """True if a figure is outside its budget."""
        return any(figure.verdict == "outside" for figure in self.figures)


def format_text(result: BenchmarkResult) -> str:
    """Formats a row as a table under its name."""
    cells = [_format_cells(figure) for figure in result.figures]
    widths = [max((len(line[column]) for line in cells), default=0) for column in range(3)]
    lines = [f"{result.name}: {result.about}"]
    lines += [f"  {_align_cells(line, widths)}".rstrip() for line in cells]
    lines += [f"  Skipped: {result.skipped}"] if result.skipped else []
    lines += [f"  * {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def _format_cells(figure: Figure) -> tuple[str, str, str, str]:
    bounds = "" if figure.budget is None else f"budget {format_number(figure.budget)}"
    bounds += "" if figure.aim is None else f", aim {format_number(figure.aim)}"
    return figure.what, format_number(figure.value), figure.unit, f"{bounds}: {figure.verdict}" if bounds else ""


def _align_cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    label, value, unit, bounds = cells
    return f"{label:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {bounds}"


def format_number(value: float) -> str:
    """Formats a number with three significant digits, and whole numbers with all digits."""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def format_json(results: Iterable[BenchmarkResult]) -> str:
    """Formats all rows as one JSON document; each figure has its verdict."""
    document = [
        {**asdict(result), "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in result.figures]}
        for result in results
    ]
    return json.dumps(document, indent=1) + "\n"
