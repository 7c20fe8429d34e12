"""`python -m bench [NAME]…`: measures all rows, or the named rows."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import click

from bench import rows
from bench.report import BenchmarkResult, format_json, format_text


def load_rows() -> dict[str, ModuleType]:
    """Returns the module of each row by name, sorted by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(rows.__path__))
    return {name: importlib.import_module(f"bench.rows.{name}") for name in names}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--seconds", type=click.FloatRange(min=5.0), default=30.0, help="Length of a measurement window (30).")
@click.option("--json", "as_document", is_flag=True, help="Print one JSON document instead of tables.")
@click.option("--strict", is_flag=True, help="Exit 1 if a figure is outside its budget.")
def main(names: Sequence[str], seconds: float, as_document: bool, strict: bool) -> None:
    """Measure all rows, or the named rows, against peers and budgets."""
    available = load_rows()
    unknown = [name for name in names if name not in available]
    if unknown:
        raise click.UsageError(f"there is no row {unknown[0]!r}; the rows are: {', '.join(available)}")
    results: list[BenchmarkResult] = []
    for name in names or available:
        results.append(available[name].measure(seconds))
        if not as_document:
            click.echo(format_text(results[-1]))
    if as_document:
        click.echo(format_json(results), nl=False)
    sys.exit(1 if strict and any(result.is_over_budget for result in results) else 0)


if __name__ == "__main__":
    main(prog_name="python -m bench")
