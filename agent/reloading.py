"""What a reload may change, and what only a restart can."""

from __future__ import annotations

import msgspec

from agent.settings import Config

RESTART = ("sample", "external_labels", "web", "state", "engine")


def replace_reloadable(old: Config, new: Config) -> Config:
    """The new configuration, except for what only a restart can change."""
    return msgspec.structs.replace(new, **{name: getattr(old, name) for name in RESTART})


def needs_restart(old: Config, new: Config) -> list[str]:
    """The settings that differ and change only with a restart."""
    fixed = [name for name in RESTART if getattr(new, name) != getattr(old, name)]
    return fixed + ["rules.interval"] * (new.rules.interval != old.rules.interval)
