"""What starting costs: the command line from nothing to a reading, and each dependency alone in a fresh interpreter."""

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

from bench.processes import HOUSE
from bench.report import Figure, Row

ABOUT = "cold start of the command line, and each dependency alone in a fresh interpreter"
REPEATS = 5
# What is imported of a distribution, where that is not its own name.
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


class Cost(NamedTuple):
    """The cost of one import: milliseconds, and MiB of resident memory."""

    milliseconds: float
    mib: float


def measure(_seconds: float) -> Row:
    """Medians of five; the files are in the page cache, the interpreter is new each time."""
    figures = [
        Figure("python -c pass", _wall("-c", "pass"), "ms"),
        Figure("steadytok --version", _wall("-m", "agent", "--version"), "ms"),
        Figure("steadytok collect meminfo", _wall("-m", "agent", "collect", "meminfo"), "ms"),
    ]
    for module in ("agent.app", "agent.sampling.eye"):
        figures += _figures(f"import {module}", _import(module))
    for name in dependencies():
        figures += _figures(f"{name}", _import(MODULES.get(name, name)))
    note = "Alone, so that what two dependencies share counts for both; pyghmi is imported only where IPMI is read."
    return Row("imports", ABOUT, tuple(figures), (note,))


def dependencies() -> Iterator[str]:
    """The names of the project's own dependencies, as pyproject.toml lists them."""
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        yield re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]


def _figures(what: str, cost: Cost) -> list[Figure]:
    return [Figure(f"{what}: time", cost.milliseconds, "ms"), Figure(f"{what}: memory", cost.mib, "MiB")]


def _import(module: str) -> Cost:
    answers = [json.loads(_run("-c", _PROBE.format(module=module))) for _ in range(REPEATS)]
    seconds, pages = zip(*answers, strict=True)
    return Cost(statistics.median(seconds) * 1000, statistics.median(pages) * _PAGE_MIB)


def _wall(*arguments: str) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        _run(*arguments)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _run(*arguments: str) -> bytes:
    return subprocess.run([sys.executable, *arguments], cwd=HOUSE, check=True, capture_output=True).stdout
