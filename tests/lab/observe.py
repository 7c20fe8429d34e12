"""Reads the guest's kernel through our collectors, and its files directly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from collectors import Host, Reading, Sample

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/run", "TMPDIR": "/run", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}


def series(samples: Iterable[Reading]) -> dict[str, float]:
    """Returns the values by series, `name{label="value"}`, without missing readings."""
    return {format_name(sample): sample.value for sample in samples if sample is not None}


def format_name(sample: Sample) -> str:
    """Returns a sample's series as an exposition writes it."""
    pairs = ",".join(f'{label}="{value}"' for label, value in sample.labels)
    return f"{sample.metric.name}{{{pairs}}}" if pairs else sample.metric.name


def collect(module: ModuleType, host: Host | None = None, *config: Any) -> dict[str, float]:
    """Runs a collector once on the live machine."""
    return series(module.collect(host or Host("/"), *config))


def collect_with_notes(module: ModuleType) -> dict[str, Any]:
    """Runs a collector once; returns its series and its notes about missing files."""
    host = Host("/")
    return {"series": collect(module, host), "notes": [list(note) for note in host.take_notes()]}


def run(*command: str, status: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program. Raises RuntimeError if it ends with another status; None allows any."""
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, **more)
    if status is not None and result.returncode != status:
        raise RuntimeError(f"{command} ended with status {result.returncode}: {result.stderr.strip()[-500:]}")
    return result


def python(code: str, *arguments: str) -> list[str]:
    """Returns the command that runs a few lines of Python, without the slow import of site-packages."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def write(path: str, text: str) -> None:
    """Writes to a file of the kernel with one write(2)."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def read_text(path: str) -> str:
    """Returns the text of a file of the kernel."""
    return Path(path).read_text()


def between(before: Callable[[], Any], act: Callable[[], object]) -> dict[str, Any]:
    """Takes the same reading before and after an act."""
    result = before()
    act()
    return {"before": result, "after": before()}
