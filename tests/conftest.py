"""Fixtures that tests of several rooms use."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from collectors import Host, Reading

# No deadline: a busy machine must not make a test fail.
# New inputs at each run on a laptop; the same inputs in CI, where a change must not fail for an unrelated rare case.
hypothesis.settings.register_profile("deep", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.register_profile("fast", hypothesis.settings.get_profile("deep"), max_examples=40)
hypothesis.settings.load_profile("fast")

MACHINES = Path(__file__).parent / "machines"
Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]


def pytest_configure() -> None:
    """Restores SIGINT, which a shell ignores in background jobs and children inherit: tests press Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    """Writes files below one root, each time it is called, and returns the same Host of that root."""
    host = Host(tmp_path / "machine")

    def write(files: Mapping[str, str]) -> Host:
        for path, text in files.items():
            Path(host.path(path)).parent.mkdir(parents=True, exist_ok=True)
            Path(host.path(path)).write_text(text)
        return host

    return write


@pytest.fixture(name="series")
def _series() -> Series:
    """Converts readings to a dictionary from series (`name{label="value"}`) to value; leaves out missing ones."""
    return lambda readings: {_name(reading): reading.value for reading in readings if reading is not None}


@pytest.fixture(name="two_nodes")
def _two_nodes(tmp_path: Path) -> Path:
    """The root of a machine with two nodes and forty CPUs; every `machines/two_nodes_*.py` adds files to it."""
    root = tmp_path / "two_nodes"
    more = {path: text for part in _more_parts() for path, text in part.files().items()}
    load(MACHINES / "two_nodes.py").build(root, more)
    return root


@pytest.fixture(name="two_nodes_expected")
def _two_nodes_expected() -> dict[str, float]:
    """The expected values of that machine, by series; a part may list none or only some of its series."""
    parts = [load(MACHINES / "two_nodes.py"), *_more_parts()]
    return {
        series: value
        for part in parts
        if hasattr(part, "expected_series")
        for series, value in part.expected_series().items()
    }


def load(path: Path) -> ModuleType:
    """Loads a module by its path, since the tests are not a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _more_parts() -> list[ModuleType]:
    return [load(path) for path in sorted(MACHINES.glob("two_nodes_*.py"))]


def _name(sample: Reading) -> str:
    assert sample is not None
    pairs = ",".join(f'{name}="{value}"' for name, value in sample.labels)
    return f"{sample.metric.name}{{{pairs}}}" if pairs else sample.metric.name
