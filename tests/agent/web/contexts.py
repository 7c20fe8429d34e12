"""A context for the web endpoints under test."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

from prometheus_client import CollectorRegistry

from agent.web.context import WebContext


def build_context(**parts: Any) -> WebContext:
    """Returns a context with the given parts, a registry of its own, and None for the rest."""
    missing = dict.fromkeys((field.name for field in fields(WebContext)), None)
    new_tick = itertools.count().__next__  # each request renders anew
    return WebContext(**{**missing, "registry": CollectorRegistry(), "tick_number": new_tick, **parts})
