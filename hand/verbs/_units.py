"""Finds a unit of hand.toml and checks its permissions."""

from __future__ import annotations

from hand.arguments import Arguments
from hand.config import UNIT_NAME, AllowedUnit
from hand.errors import HandRefusedError
from hand.verb import VerbContext

CGROUP_ROOT = "sys/fs/cgroup"


def get_permitted_unit(context: VerbContext, arguments: Arguments, permission: str) -> tuple[str, AllowedUnit]:
    """Returns the unit's name and entry; raises HandRefusedError without the permission in hand.toml."""
    name = arguments.take_text("unit", UNIT_NAME, "a unit such as vllm.service")
    unit = context.config.units.get(name)
    if unit is None or not getattr(unit, permission):
        raise HandRefusedError(
            f'{name} must not be changed: allow it with [units."{name}"] {permission} = true in hand.toml'
        )
    return name, unit


def resolve_unit_file(context: VerbContext, unit: AllowedUnit, name: str) -> str:
    """Returns a file of the unit's cgroup; raises HandRefusedError when it is absent, as for a stopped unit."""
    path = f"{CGROUP_ROOT}/{unit.cgroup.strip('/')}/{name}"
    if not context.files.exists(path):
        raise HandRefusedError(f"there is no {path}: the unit is not running, or the kernel lacks the file")
    return path
