"""
Finds the actions: every file of agent/actions/ without a leading underscore.

Third parties add theirs through the entry point group `steadytok.actions`; one is loaded only if a remedy names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from agent import actions
from agent.runtime.entry_points import load_plugins

ACTION_GROUP = "steadytok.actions"


def load_actions(enabled: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Returns every action's module by its name. Raises PluginError if a third party's cannot be used."""
    return load_plugins(actions, ACTION_GROUP, "action", enabled)
