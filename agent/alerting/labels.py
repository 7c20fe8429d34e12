"""Labels that the agent adds to alerts: the identity of the host, and the origin of a posted alert."""

from __future__ import annotations

from collections.abc import Mapping

from collectors import Labels

SOURCE = "__source__"
"""The label that marks a posted alert, so that it is never taken for an alert of the agent's own rules."""


def with_identity(labels: Labels, identity: Mapping[str, str]) -> Labels:
    """Adds the identity to an alert's labels; posted alerts and alerts that have it already stay as they are."""
    label_map = dict(labels)
    if SOURCE in label_map or identity.keys() <= label_map.keys():
        return labels
    return tuple(sorted({**identity, **label_map}.items()))
