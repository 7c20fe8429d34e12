"""Loads plug-ins: every module of a package of ours, and the third parties' that the configuration enables."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from types import ModuleType

from agent.runtime.errors import describe_fault


class PluginError(Exception):
    """The set of plug-ins cannot be used; the message names the plug-in."""


def list_names(group: str) -> list[str]:
    """Returns the names of all installed plug-ins of a group, without importing them."""
    return [entry.name for entry in entry_points(group=group)]


def load_plugins(package: ModuleType, group: str, kind: str, enabled: Iterable[str]) -> dict[str, ModuleType]:
    """
    Returns by name the modules of `package` without a leading underscore, and the enabled plug-ins of the group.

    Raises PluginError if two plug-ins have one name, or if a third party's cannot be imported.
    """
    names = [info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")]
    modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
    enabled_names = set(enabled)
    for entry in entry_points(group=group):
        if entry.name in modules:
            raise PluginError(f"two {kind}s are named {entry.name!r}: uninstall or rename {entry.value}")
        if entry.name in enabled_names:
            try:
                modules[entry.name] = entry.load()
            except Exception as error:  # importing a third party's module may raise anything
                reason = f"the {kind} {entry.name!r} ({entry.value}) cannot be loaded: {describe_fault(error)}"
                raise PluginError(reason) from error
    return modules
