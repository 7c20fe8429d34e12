"""What the controller asks of History, and how its answers are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from agent.pacing import metrics
from agent.pacing.controller import Seen
from agent.pacing.thermal_model import Plant
from collectors import Metric

__all__ = ["HOTTEST", "Seen", "headrooms", "load", "period", "predicted", "seen"]

Query = Callable[[str], list[tuple[dict[str, str], float]]]

HOTTEST = "steadytok_dimm_headroom_celsius"
HEADROOM = f"min by (dimm, source) ({HOTTEST})"
_INTERVAL = "steadytok_collector_interval_seconds"
_USUAL = 10.0  # seconds between readings where nobody says


def headrooms(query: Query) -> Mapping[str, float]:
    """Of each DIMM the least that any source tells."""
    found: dict[str, float] = {}
    for labels, value in query(HEADROOM):
        dimm = labels.get("dimm", "")
        found[dimm] = min(value, found.get(dimm, value))
    return found


def load(window: str, engine: str = "") -> str:
    """The share of time in which an engine, or each, had anything to do."""
    of = f"{{engine={json.dumps(engine)}}}" if engine else ""
    return f"max by (engine) (avg_over_time((steadytok_engine_requests_running{of} > bool 0)[{window}:1s]))"


def seen(query: Query, engine: str) -> Seen:
    """All that a look needs, of an engine by its name; a gateway has none, and so no load and no plant."""
    rooms = headrooms(query)
    if not engine:
        return Seen(rooms, None, period(query))
    return Seen(
        rooms,
        _one(query, load("30s", engine)),
        period(query),
        _plant(query, engine),
        _of(query, metrics.SPEED, engine),
    )


def period(query: Query) -> float:
    """Seconds between two readings of the source that has the hottest DIMM."""
    rows = query(HEADROOM)
    source = min(rows, key=lambda row: row[1])[0].get("source", "") if rows else ""
    found = _one(query, f"max({_INTERVAL}{{collector={json.dumps(source)}}})")
    return _USUAL if found is None else found


def _plant(query: Query, engine: str) -> Plant | None:
    gain, slowness, idle = (_of(query, each, engine) for each in (metrics.GAIN, metrics.TIME_CONSTANT, metrics.IDLE))
    return None if gain is None or slowness is None or idle is None else Plant(gain, slowness, idle)


def predicted(query: Query, engine: str) -> tuple[float | None, float | None, float | None]:
    """The duty that would hold an engine's DIMM, the share that firmware leaves, and whether pacing pays (1 or 0)."""
    held, left, pays = (_of(query, each, engine) for each in (metrics.PREDICTED, metrics.FIRMWARE, metrics.PAYS))
    return held, left, pays


def _of(query: Query, metric: Metric, engine: str) -> float | None:
    return _one(query, f"max({metric.name}{{engine={json.dumps(engine)}}})")


def _one(query: Query, expr: str) -> float | None:
    rows = query(expr)
    return rows[0][1] if rows else None
