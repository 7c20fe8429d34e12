"""A unit that root has named in hand.toml, for what it has been named."""

from __future__ import annotations

from hand.arguments import Arguments
from hand.config import UNIT_NAME, AllowedUnit
from hand.errors import HandRefusedError
from hand.verb import VerbContext

CGROUP_ROOT = "sys/fs/cgroup"


def get_permitted_unit(context: VerbContext, arguments: Arguments, permission: str) -> tuple[str, AllowedUnit]:
    """The unit's name and entry; RefusedError where root has not named it for this."""
    name = arguments.take_text("unit", UNIT_NAME, "a unit such as vllm.service")
    unit = context.config.units.get(name)
    if unit is None or not getattr(unit, permission):
        raise HandRefusedError(
            f'{name} is not to be touched: [units."{name}"] {permission} = true in hand.toml allows it'
        )
    return name, unit


def resolve_unit_file(context: VerbContext, unit: AllowedUnit, name: str) -> str:
    """A file of the unit's cgroup; RefusedError where it is not there, as when the unit is stopped."""
    path = f"{CGROUP_ROOT}/{unit.cgroup.strip('/')}/{name}"
    if not context.files.exists(path):
        raise HandRefusedError(f"there is no {path}: the unit is not running, or the kernel does not have it")
    return path
