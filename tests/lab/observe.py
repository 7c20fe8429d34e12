"""How a guest looks at its kernel: through our collectors, and at the files themselves."""

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
    """Readings by series, `name{label="value"}`; missing ones are left out."""
    return {format_name(sample): sample.value for sample in samples if sample is not None}


def format_name(sample: Sample) -> str:
    """A sample's series as an exposition writes it."""
    pairs = ",".join(f'{label}="{value}"' for label, value in sample.labels)
    return f"{sample.metric.name}{{{pairs}}}" if pairs else sample.metric.name


def collect(module: ModuleType, host: Host | None = None, *config: Any) -> dict[str, float]:
    """One pass of a collector over the live machine."""
    return series(module.collect(host or Host("/"), *config))


def collect_with_notes(module: ModuleType) -> dict[str, Any]:
    """One pass, with what it said is missing."""
    host = Host("/")
    return {"series": collect(module, host), "notes": [list(note) for note in host.take_notes()]}


def run(*command: str, status: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    """A program of the guest, waited for; `status` None takes any exit status."""
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, **more)
    if status is not None and result.returncode != status:
        raise RuntimeError(f"{command} ended with status {result.returncode}: {result.stderr.strip()[-500:]}")
    return result


def python(code: str, *arguments: str) -> list[str]:
    """The command that runs a few lines of Python without the time that site-packages take."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def write(path: str, text: str) -> None:
    """Writes to a file of the kernel, in one write(2)."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def read_text(path: str) -> str:
    """A file of the kernel as it is."""
    return Path(path).read_text()


def between(before: Callable[[], Any], act: Callable[[], object]) -> dict[str, Any]:
    """The same look before and after something was done."""
    result = before()
    act()
    return {"before": result, "after": before()}
