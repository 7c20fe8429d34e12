"""The panels of a host over time, as queries: `web/static/panels.json`, for the page, `run` and `top`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

PANELS_FILE = Path(__file__).parents[1] / "web/static/panels.json"


class PanelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One query; each of its series is a line, named by its labels (`{engine}`)."""

    query: str
    name: str
    owner_label: str | None = msgspec.field(default=None, name="of")
    """The name of the line that this line belongs to and shares its colour with; None: its own."""
    style: Literal["line", "reference", "limit", "note"] = "line"
    """A `note` is not drawn: its value stands beside the value of the line it belongs to."""
    merged_name: str | None = msgspec.field(default=None, name="one")
    """The name of the one line of all series together, set when one series at a time has a value."""
    unit: str | None = None
    digits: int | None = None


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chart; its values are in `unit`."""

    id: str
    title: str
    unit: str
    digits: int
    """Decimals."""
    none: str
    """The sentence for a panel without data."""
    lines: tuple[PanelQuery, ...]
    low: float | None = msgspec.field(default=None, name="from")
    high: float | None = msgspec.field(default=None, name="to")
    room: float | None = None
    """The least span of the axis."""
    tall: bool = False


def load_panels() -> tuple[Panel, ...]:
    """Returns the panels in order; raises OSError or msgspec.MsgspecError when the package is incomplete."""
    return msgspec.json.decode(PANELS_FILE.read_bytes(), type=tuple[Panel, ...])
