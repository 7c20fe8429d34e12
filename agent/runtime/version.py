"""The version of what is installed."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The installed distribution's version, or `unknown` in a checkout that nobody installed."""
    try:
        return importlib.metadata.version("steadytok")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
