"""The labels that identify an alert: those of the host for an alert of our rules, and the mark of a posted one."""

from __future__ import annotations

from collections.abc import Mapping

from collectors import Labels

SOURCE = "__source__"
"""Marks a posted alert beside its own labels, so that it is never taken for an alert of our rules."""


def with_identity(labels: Labels, identity: Mapping[str, str]) -> Labels:
    """Returns the labels with which an alert of our rules leaves the host; a posted alert keeps its labels."""
    label_map = dict(labels)
    if SOURCE in label_map or identity.keys() <= label_map.keys():
        return labels
    return tuple(sorted({**identity, **label_map}.items()))
