"""
Finds the collectors: the folder is the list, and nobody keeps another one.

Third parties add theirs through the entry point group `steadytok.collectors`, loaded only if the configuration
enables them; two collectors of one name stop the start.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import collectors
from collectors import Host, Metric, Reading, Sample

COLLECTOR_GROUP = "steadytok.collectors"
ACTION_GROUP = "steadytok.actions"
INTERVAL = 1.0  # seconds between passes where the module does not say
DEADLINE = 0.5  # seconds that a pass may take where the module does not say

Collect = Callable[[Host], Iterable[Reading]]
Join = Callable[[Mapping[str, Sequence[Sample]], Host], Iterable[Reading]]


class NotLoaded:
    """Stands for the Config of a third party's collector that nobody enabled: its keys are not looked at."""


class DiscoveryError(Exception):
    """The set of collectors cannot be used."""


@dataclass(frozen=True, slots=True)
class Collector:
    """One collector, bound to its configuration; `join` instead of `collect` where it is made from others."""

    name: str
    description: str
    metrics: tuple[Metric, ...]
    collect: Collect
    interval: float
    deadline: float
    isolated: bool
    config: Any = None
    after: tuple[str, ...] = ()
    awaits: tuple[str, ...] = ()
    join: Join | None = None
    privileged: bool = False


def load_collectors(enabled: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Every collector's module by name: those of this house, and of third parties those that are enabled."""
    names = (info.name for info in pkgutil.iter_modules(collectors.__path__))
    loaded = {name: importlib.import_module(f"collectors.{name}") for name in names if not name.startswith("_")}
    return _add_third_parties(loaded, COLLECTOR_GROUP, "collector", enabled)


def _add_third_parties(
    loaded: dict[str, ModuleType], group: str, kind: str, enabled: Iterable[str]
) -> dict[str, ModuleType]:
    for entry in entry_points(group=group):
        if entry.name in loaded:
            raise DiscoveryError(f"two {kind}s are named {entry.name!r}: uninstall or rename {entry.value}")
        if entry.name in set(enabled):
            try:
                loaded[entry.name] = entry.load()
            except Exception as error:  # whatever a third party's module does when it is imported
                reason = f"the {kind} {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
                raise DiscoveryError(reason) from error
    return loaded


def load_actions(enabled: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Every action's module by name, in the same way; third parties' only where a remedy names them."""
    import agent.actions

    names = {info.name for info in pkgutil.iter_modules(agent.actions.__path__) if not info.name.startswith("_")}
    loaded = {name: importlib.import_module(f"agent.actions.{name}") for name in sorted(names)}
    return _add_third_parties(loaded, ACTION_GROUP, "action", enabled)


def find_config_types(loaded: Mapping[str, ModuleType]) -> dict[str, type | None]:
    """The Config type of each collector, or None where it has none; those not loaded may still be switched off."""
    not_loaded: dict[str, type | None] = {entry.name: NotLoaded for entry in entry_points(group=COLLECTOR_GROUP)}
    return {**not_loaded, **{name: getattr(module, "Config", None) for name, module in loaded.items()}}


def bind_collector(
    module: ModuleType, name: str, *, interval: float | None, deadline: float | None, config: Any
) -> Collector:
    """A collector with what the operator said about it; None means the module's own."""
    join = _bind_function(module, "join", config)
    return Collector(
        name=name,
        description=(module.__doc__ or name).strip().splitlines()[0],
        metrics=tuple(module.METRICS),
        collect=_bind_function(module, "collect", config) or _collect_nothing,
        interval=interval or float(getattr(module, "INTERVAL", INTERVAL)),
        deadline=deadline or float(getattr(module, "DEADLINE", DEADLINE)),
        isolated=bool(getattr(module, "ISOLATED", False)),
        config=config,
        after=tuple(getattr(module, "AFTER", ())),
        awaits=tuple(getattr(module, "AWAITS", ())),
        join=join,
        privileged=bool(getattr(module, "PRIVILEGED", False)),
    )


def _bind_function(module: ModuleType, name: str, overrides: Any) -> Any:
    """The module's function of that name, given its configuration where it has one; None where there is none."""
    function = getattr(module, name, None)
    config_type = getattr(module, "Config", None)
    if function is None or config_type is None:
        return function
    effective_config = config_type() if overrides is None else overrides
    return lambda *arguments: function(*arguments, effective_config)


def _collect_nothing(host: Host) -> Iterable[Reading]:
    return ()
