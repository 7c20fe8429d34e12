"""What a reload may change, and what only a restart can."""

from __future__ import annotations

import msgspec

from agent.settings import Config

RESTART = ("sample", "external_labels", "web", "state", "engine")


def replace_reloadable(old: Config, new: Config) -> Config:
    """The new configuration, except for what only a restart can change."""
    remediation = msgspec.structs.replace(new.remediation, hand=old.remediation.hand)
    return msgspec.structs.replace(new, remediation=remediation, **{name: getattr(old, name) for name in RESTART})


def needs_restart(old: Config, new: Config) -> list[str]:
    """The settings that differ and change only with a restart."""
    fixed = [name for name in RESTART if getattr(new, name) != getattr(old, name)]
    fixed += ["rules.interval"] * (new.rules.interval != old.rules.interval)
    return fixed + ["remediation.hand"] * (new.remediation.hand != old.remediation.hand)
