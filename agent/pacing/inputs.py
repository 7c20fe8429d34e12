"""The controller's inputs, as PromQL queries to History and the parsing of their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from agent.pacing import metrics
from agent.pacing.controller import ControlInputs
from agent.pacing.thermal_model import Plant
from collectors import Metric

__all__ = [
    "HEADROOM_METRIC",
    "ControlInputs",
    "InstantQuery",
    "build_load_query",
    "index_by_engine",
    "read_headrooms",
    "read_inputs",
    "read_period",
    "read_prediction",
]

InstantQuery = Callable[[str], list[tuple[dict[str, str], float]]]
"""Returns the present rows of a PromQL expression: labels and value."""

HEADROOM_METRIC = "steadytok_dimm_headroom_celsius"
HEADROOM_QUERY = f"min by (dimm, source) ({HEADROOM_METRIC})"
_INTERVAL_METRIC = "steadytok_collector_interval_seconds"
_DEFAULT_PERIOD = 10.0  # seconds between readings, if no collector reports its interval


def read_headrooms(query: InstantQuery) -> Mapping[str, float]:
    """Returns the least headroom that any source reports, for each DIMM."""
    headrooms: dict[str, float] = {}
    for labels, value in query(HEADROOM_QUERY):
        dimm = labels.get("dimm", "")
        headrooms[dimm] = min(value, headrooms.get(dimm, value))
    return headrooms


def index_by_engine(rows: Iterable[tuple[Mapping[str, str], float]]) -> dict[str, float]:
    """Returns the value of each engine."""
    return {labels.get("engine", ""): value for labels, value in rows}


def build_load_query(window: str, engine: str = "") -> str:
    """Returns the expression of the share of time in which an engine, or each engine, had any request."""
    selector = f"{{engine={json.dumps(engine)}}}" if engine else ""
    return f"max by (engine) (avg_over_time((steadytok_engine_requests_running{selector} > bool 0)[{window}:1s]))"


def read_inputs(query: InstantQuery, engine: str) -> ControlInputs:
    """Reads the inputs of one step; a gateway has no engine name, and so no load and no plant."""
    headrooms = read_headrooms(query)
    if not engine:
        return ControlInputs(headrooms, None, read_period(query))
    return ControlInputs(
        headrooms,
        _query_value(query, build_load_query("30s", engine)),
        read_period(query),
        _read_plant(query, engine),
        _query_metric(query, metrics.SPEED, engine),
    )


def read_period(query: InstantQuery) -> float:
    """Returns the seconds between two readings of the source that has the hottest DIMM."""
    rows = query(HEADROOM_QUERY)
    source = min(rows, key=lambda row: row[1])[0].get("source", "") if rows else ""
    seconds = _query_value(query, f"max({_INTERVAL_METRIC}{{collector={json.dumps(source)}}})")
    return _DEFAULT_PERIOD if seconds is None else seconds


def _read_plant(query: InstantQuery, engine: str) -> Plant | None:
    gain, time_constant, idle = (
        _query_metric(query, metric, engine) for metric in (metrics.GAIN, metrics.TIME_CONSTANT, metrics.IDLE)
    )
    return None if gain is None or time_constant is None or idle is None else Plant(gain, time_constant, idle)


def read_prediction(query: InstantQuery, engine: str) -> tuple[float | None, float | None, float | None]:
    """Returns the duty at the set point, the share that firmware leaves, and whether pacing pays (1 or 0)."""
    duty, firmware_share, pays = (
        _query_metric(query, metric, engine) for metric in (metrics.PREDICTED, metrics.FIRMWARE, metrics.PAYS)
    )
    return duty, firmware_share, pays


def _query_metric(query: InstantQuery, metric: Metric, engine: str) -> float | None:
    return _query_value(query, f"max({metric.name}{{engine={json.dumps(engine)}}})")


def _query_value(query: InstantQuery, expr: str) -> float | None:
    rows = query(expr)
    return rows[0][1] if rows else None
