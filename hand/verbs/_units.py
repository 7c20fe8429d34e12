"""A unit that root has named in hand.toml, for what it has been named."""

from __future__ import annotations

from hand.arguments import Arguments
from hand.config import UNIT, Unit
from hand.errors import RefusedError
from hand.verb import Bench

CGROUPS = "sys/fs/cgroup"


def unit_for(bench: Bench, arguments: Arguments, permission: str) -> tuple[str, Unit]:
    """The unit's name and entry; RefusedError where root has not named it for this."""
    name = arguments.text("unit", UNIT, "a unit such as vllm.service")
    unit = bench.config.units.get(name)
    if unit is None or not getattr(unit, permission):
        raise RefusedError(f'{name} is not to be touched: [units."{name}"] {permission} = true in hand.toml allows it')
    return name, unit


def unit_file(bench: Bench, unit: Unit, name: str) -> str:
    """A file of the unit's cgroup; RefusedError where it is not there, as when the unit is stopped."""
    path = f"{CGROUPS}/{unit.cgroup.strip('/')}/{name}"
    if not bench.files.exists(path):
        raise RefusedError(f"there is no {path}: the unit is not running, or the kernel does not have it")
    return path
