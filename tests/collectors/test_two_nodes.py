"""A whole machine of two nodes and forty CPUs, read by every collector."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import collectors
from collectors import Host, Reading

Series = Callable[[Iterable[Reading]], dict[str, float]]


def _read_all(root: Path) -> list[Reading]:
    names = [module.name for module in pkgutil.iter_modules(collectors.__path__) if not module.name.startswith("_")]
    modules = {name: importlib.import_module(f"collectors.{name}") for name in names}
    values: dict[str, list[Reading]] = {
        name: list(module.collect(Host(root), *([module.Config()] if hasattr(module, "Config") else [])))
        for name, module in modules.items()
        if not hasattr(module, "AFTER")
    }
    samples = {name: [reading for reading in readings if reading is not None] for name, readings in values.items()}
    for name in modules.keys() - values.keys():
        config = [modules[name].Config()] if hasattr(modules[name], "Config") else []
        values[name] = list(modules[name].join(samples, Host(root), *config))
    return [reading for readings in values.values() for reading in readings]


def test_every_value_in_the_files_is_read(
    two_nodes: Path, two_nodes_expected: dict[str, float], series: Series
) -> None:
    """Each value in the machine's files gives its series."""
    values = series(_read_all(two_nodes))

    assert {name: values.get(name) for name in two_nodes_expected} == pytest.approx(two_nodes_expected)


def test_nothing_is_read_that_is_not_there(two_nodes: Path, series: Series) -> None:
    """Two nodes give two of each series by node, on any host."""
    values = series(_read_all(two_nodes))

    assert len([name for name in values if name.startswith("steadytok_numastat_")]) == 12
    assert len([name for name in values if name.startswith("steadytok_stat_cpu_seconds_total")]) == 20
    assert not [name for name in values if 'node="2"' in name]
