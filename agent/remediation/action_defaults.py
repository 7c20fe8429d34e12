"""Completes the module of an action with the default of each name that the contract lets it leave out."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from agent.actions import Action, Task

_REQUIRED = ("describe", "resource", "plan", "do")


class NoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The Config of an action without parameters."""


def _find_url_address(task: Task) -> list[str]:
    return [urlsplit(task.target["url"]).netloc.rpartition("@")[2]] if "url" in task.target else []


_DEFAULTS: Mapping[str, Any] = {
    "Config": NoConfig,
    "TARGET": (),
    "VERBS": (),
    "NEEDS": "",
    "NAMED": False,
    "REVERSIBLE": False,
    "TTL": None,
    "LASTING": False,
    "HOLDS_DUTY": False,
    "strength": lambda task: 0.0,
    "faults": lambda task: (),
    "control_settings": lambda task: None,
    "sandbox_addresses": _find_url_address,
    "undo": lambda task, plan, context: None,
    "steer": lambda task, memory, moment: (memory, moment.held),
}


def complete_action(module: object) -> Action:
    """Returns the complete action of a module; raises ValueError if the module lacks a required name."""
    required = (*_REQUIRED, "undo") if getattr(module, "REVERSIBLE", False) else _REQUIRED
    missing = [name for name in required if not hasattr(module, name)]
    if missing:
        raise ValueError(f"the action lacks {', '.join(missing)}")
    present = {name: getattr(module, name) for name in (*_REQUIRED, *_DEFAULTS) if hasattr(module, name)}
    return cast(Action, SimpleNamespace(**{**_DEFAULTS, **present}))
