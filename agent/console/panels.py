"""What is shown of a host over time, as questions: `web/static/panels.json`, which the page and `top` both ask."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

PANELS_FILE = Path(__file__).parents[1] / "web/static/panels.json"


class PanelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question: each series that answers it is a line, named by its labels (`{engine}`)."""

    query: str
    name: str
    of: str | None = None
    """Whose it is, where that is not its name: what is of one thing has one colour."""
    style: Literal["line", "reference", "limit", "note"] = "line"
    """A `note` is not drawn: its value stands beside the value of the line it belongs to."""
    one: str | None = None
    """Of these series only one has a value at a time; all together are one line."""
    unit: str | None = None
    digits: int | None = None


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chart; values are in its unit."""

    id: str
    title: str
    unit: str
    digits: int
    """Digits behind the point."""
    none: str
    """What is said where there is nothing to draw."""
    lines: tuple[PanelQuery, ...]
    low: float | None = msgspec.field(default=None, name="from")
    high: float | None = msgspec.field(default=None, name="to")
    room: float | None = None
    """The least that the axis spans."""
    tall: bool = False


def load_panels() -> tuple[Panel, ...]:
    """All of them, in order; OSError or msgspec.MsgspecError where the package is not whole."""
    return msgspec.json.decode(PANELS_FILE.read_bytes(), type=tuple[Panel, ...])
