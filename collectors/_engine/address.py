"""The address of an engine, as the configuration gives it to the collectors that use engines."""

from __future__ import annotations

from typing import NamedTuple


class EngineAddress(NamedTuple):
    """An engine's name, its base URL and its kind (`auto` where the kind is to be detected)."""

    name: str
    url: str
    kind: str = "auto"
