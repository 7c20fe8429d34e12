"""
Finds the collectors: every file of collectors/ without a leading underscore.

Third parties add theirs through the entry point group `steadytok.collectors`; one is loaded only if the configuration
enables it. Two collectors of one name stop the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import collectors
from agent.config.schema import NotLoaded
from agent.runtime import entry_points
from collectors import Host, Metric, Reading, Sample

COLLECTOR_GROUP = "steadytok.collectors"
INTERVAL = 1.0  # seconds between passes of a module without an INTERVAL
DEADLINE = 0.5  # seconds that a pass of a module without a DEADLINE may take
HINT_ABSENT = "this kernel or machine does not have it"
HINT_REFUSED = "run as root, or as the systemd service"

Collect = Callable[[Host], Iterable[Reading]]
Explain = Callable[[Sequence[Sample]], Iterable[str]]
Join = Callable[[Mapping[str, Sequence[Sample]], Host], Iterable[Reading]]


@dataclass(frozen=True, slots=True)
class Collector:
    """One collector, bound to its configuration; a join has `join` instead of `collect`."""

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
    uevents: tuple[str, ...] = ()
    uses_engines: bool = False
    hint_absent: str = HINT_ABSENT
    hint_refused: str = HINT_REFUSED
    explain: Explain | None = None


def load_collectors(enabled: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Returns every collector's module by its name: all of ours, and those of third parties that are enabled."""
    return entry_points.load_plugins(collectors, COLLECTOR_GROUP, "collector", enabled)


def find_config_types(modules: Mapping[str, ModuleType]) -> dict[str, type | None]:
    """Returns each collector's Config type, None where it has none, and NotLoaded where the module is not loaded."""
    not_loaded: dict[str, type | None] = dict.fromkeys(entry_points.list_names(COLLECTOR_GROUP), NotLoaded)
    return {**not_loaded, **{name: getattr(module, "Config", None) for name, module in modules.items()}}


def bind_collector(
    module: ModuleType, name: str, *, interval: float | None, deadline: float | None, config: Any
) -> Collector:
    """Binds a collector to the operator's settings; None stands for the module's own value."""
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
        uevents=tuple(getattr(module, "UEVENTS", ())),
        uses_engines=hasattr(module, "with_engines"),
        hint_absent=getattr(module, "HINT_ABSENT", HINT_ABSENT),
        hint_refused=getattr(module, "HINT_REFUSED", HINT_REFUSED),
        explain=getattr(module, "explain", None),
    )


def _bind_function(module: ModuleType, name: str, config: Any) -> Any:
    """Returns the module's function of that name, bound to the configuration; None if the module has no such one."""
    function = getattr(module, name, None)
    config_type = getattr(module, "Config", None)
    if function is None or config_type is None:
        return function
    effective_config = config_type() if config is None else config
    return lambda *arguments: function(*arguments, effective_config)


def _collect_nothing(host: Host) -> Iterable[Reading]:
    return ()
