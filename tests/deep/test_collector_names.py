"""The names of every collector's metrics, before the judge that Prometheus ships."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess

import pytest

import collectors
from collectors import Metric
from tests.processes import require_program

NAMES = sorted(module.name for module in pkgutil.iter_modules(collectors.__path__) if not module.name.startswith("_"))


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_promtool_has_nothing_to_say(name: str) -> None:
    """`promtool check metrics` finds no fault with any name, type or help."""
    metrics: tuple[Metric, ...] = importlib.import_module(f"collectors.{name}").METRICS
    text = "".join(f"# HELP {m.name} {m.help}\n# TYPE {m.name} {m.kind}\n{m.name} 0\n" for m in metrics)
    done = subprocess.run(
        [require_program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )

    assert done.stderr + done.stdout == ""
    assert done.returncode == 0
