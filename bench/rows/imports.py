"""The cost of a start: the command line up to a reading, and each dependency alone in a new interpreter."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from typing import NamedTuple

from bench.processes import PROJECT_ROOT
from bench.report import BenchmarkResult, Figure

ABOUT = "cold start of the command line, and each dependency alone in a new interpreter"
REPEATS = 5
# The module to import of a distribution, if it differs from the name of the distribution.
MODULES = {
    "prometheus-client": "prometheus_client",
    "apscheduler": "apscheduler.schedulers.asyncio",
    "pyghmi": "pyghmi.ipmi.command",
    "aiohttp": "aiohttp.web",
    "PyYAML": "yaml",
    "promql-parser": "promql_parser",
    "google-re2": "re2",
}
_PROBE = """
import json, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
before, began = resident(), time.perf_counter()
import {module}
print(json.dumps((time.perf_counter() - began, resident() - before)))
"""
_PAGE_MIB = 4096 / (1 << 20)


class ImportCost(NamedTuple):
    """The cost of one import: milliseconds, and MiB of resident memory."""

    milliseconds: float
    mib: float


def measure(_seconds: float) -> BenchmarkResult:
    """Measures medians of five; the files are in the page cache, the interpreter is new each time."""
    figures = [
        Figure("python -c pass", _time_command("-c", "pass"), "ms"),
        Figure("steadytok --version", _time_command("-m", "agent", "--version"), "ms"),
        Figure("steadytok collect meminfo", _time_command("-m", "agent", "collect", "meminfo"), "ms"),
    ]
    for module in ("agent.app", "agent.sampling.eye"):
        figures += _build_figures(f"import {module}", _measure_import(module))
    for name in list_dependencies():
        figures += _build_figures(f"{name}", _measure_import(MODULES.get(name, name)))
    note = "Each is measured alone, so a shared import counts for both; the agent imports pyghmi only to read IPMI."
    return BenchmarkResult("imports", ABOUT, tuple(figures), (note,))


def list_dependencies() -> Iterator[str]:
    """Yields the names of the project's dependencies in pyproject.toml."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        yield re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]


def _build_figures(label: str, cost: ImportCost) -> list[Figure]:
    return [Figure(f"{label}: time", cost.milliseconds, "ms"), Figure(f"{label}: memory", cost.mib, "MiB")]


def _measure_import(module: str) -> ImportCost:
    results = [json.loads(_run("-c", _PROBE.format(module=module))) for _ in range(REPEATS)]
    seconds, pages = zip(*results, strict=True)
    return ImportCost(statistics.median(seconds) * 1000, statistics.median(pages) * _PAGE_MIB)


def _time_command(*arguments: str) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        _run(*arguments)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _run(*arguments: str) -> bytes:
    return subprocess.run([sys.executable, *arguments], cwd=PROJECT_ROOT, check=True, capture_output=True).stdout
