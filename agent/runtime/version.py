"""The installed version."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """Returns the version of the installed distribution, or `unknown` in a checkout that is not installed."""
    try:
        return importlib.metadata.version("steadytok")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
