"""Separates the settings that a reload can change from those that need a restart."""

from __future__ import annotations

import msgspec

from agent.config.schema import AgentConfig

RESTART_KEYS = ("sample", "external_labels", "web", "state", "engine")


def replace_reloadable(old: AgentConfig, new: AgentConfig) -> AgentConfig:
    """Returns the new configuration with the old values of settings that need a restart."""
    remediation = msgspec.structs.replace(new.remediation, hand=old.remediation.hand)
    return msgspec.structs.replace(new, remediation=remediation, **{name: getattr(old, name) for name in RESTART_KEYS})


def find_restart_keys(old: AgentConfig, new: AgentConfig) -> list[str]:
    """Lists the settings that differ and need a restart."""
    changed = [name for name in RESTART_KEYS if getattr(new, name) != getattr(old, name)]
    changed += ["rules.interval"] * (new.rules.interval != old.rules.interval)
    return changed + ["remediation.hand"] * (new.remediation.hand != old.remediation.hand)
