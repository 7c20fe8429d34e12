"""
What a person at a terminal is shown: a frozen view of now, made from History and the alerts alone.

Drawing it is `agent/console/live_table.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.engines.baseline import Baseline
from rules import promql
from rules.alerts import Alert, AlertState
from rules.history.history import History

_QUERY_TEXTS = {
    "hottest": 'topk(1, steadytok_hwmon_temperature_celsius or steadytok_dimm_temperature_celsius{source!="hwmon"})',
    "frequency": "avg(steadytok_cpufreq_frequency_hertz)",
    "frequency_max": "max(steadytok_cpufreq_frequency_max_hertz)",
    "remote": """
      sum(rate(steadytok_numastat_other_node_total[1m])) / (sum(rate(steadytok_numastat_numa_hit_total[1m])) > 0)
    """,
    "node_available": "steadytok_node_meminfo_available_bytes",
    "node_total": "steadytok_node_meminfo_mem_total_bytes",
    "canary_cpu": 'rate(steadytok_engine_cpu_seconds_total{engine="canary"}[1m])',
    "canary_memory": 'steadytok_engine_resident_bytes{engine="canary"}',
    "failing": "steadytok_collector_success == 0",
    "engines": "steadytok_engine_up",
}
TRAIL_MS, TRAIL_STEP_MS = 300_000, 10_000  # five minutes of speed, one point each ten seconds
SEVERITIES = ("critical", "warning", "info", "none")


@dataclass(frozen=True, slots=True)
class EngineView:
    """
    One engine: whether it answers, its speed now and its baseline (tokens/s), how much of that is learnt (0 to 1).

    `trail` is its speed over the last minutes, oldest first, None where it was idle.
    """

    name: str
    up: bool
    speed: float | None
    baseline: float | None
    baseline_progress: float
    trail: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """One NUMA node's memory, in bytes."""

    node: str
    available: float
    total: float


@dataclass(frozen=True, slots=True)
class HostView:
    """All that the screen shows."""

    engines: tuple[EngineView, ...]
    hottest: tuple[str, float] | None
    frequency: float | None
    frequency_max: float | None
    remote: float | None
    nodes: tuple[NodeView, ...]
    canary_cpu: float | None
    canary_memory: float | None
    failing: tuple[str, ...]
    alerts: tuple[Alert, ...]
    series: int
    canary_starting: bool
    pacing: tuple[str, ...] = ()
    """How and why each paced engine is held, a sentence each."""


class HostViewBuilder:
    """Asks History for the view; the questions are compiled once."""

    def __init__(self) -> None:
        self._queries: dict[str, promql.Query] = {name: promql.compile(text) for name, text in _QUERY_TEXTS.items()}
        self._speed_query = promql.compile("steadytok_engine_tokens_per_second")

    def _query_trails(self, history: History, now_ms: int) -> dict[str, tuple[float | None, ...]]:
        matrix = self._speed_query.evaluate_range(history, now_ms - TRAIL_MS + TRAIL_STEP_MS, now_ms, TRAIL_STEP_MS)
        rows = zip(matrix.labels, matrix.values.tolist(), matrix.present.tolist(), strict=True)
        return {
            dict(labels).get("engine", ""): tuple(
                v if is_present else None for v, is_present in zip(values, present, strict=True)
            )
            for labels, values, present in rows
        }

    def build(
        self,
        history: History,
        alerts: Sequence[Alert],
        baseline: Baseline,
        now_ms: int,
        *,
        canary: bool = False,
        pacing: Sequence[str] = (),
    ) -> HostView:
        """The host at `now_ms`; `canary`: an engine of ours is to be there; `pacing`: what is held, and why."""
        results = {name: list(query.evaluate_at(history, now_ms)) for name, query in self._queries.items()}

        def first_value(name: str) -> float | None:
            return results[name][0][1] if results[name] else None

        def values_by(name: str, label: str) -> dict[str, float]:
            return {dict(labels).get(label, ""): value for labels, value in results[name]}

        speeds = baseline.query_speeds(history, now_ms)
        trails = self._query_trails(history, now_ms)
        engines = tuple(
            EngineView(
                name,
                up == 1,
                speeds.get(name),
                baseline.expected_speed(name),
                baseline.learning_progress(name),
                trails.get(name, ()),
            )
            for name, up in sorted(values_by("engines", "engine").items())
        )
        total = values_by("node_total", "node")
        available = values_by("node_available", "node")
        nodes = tuple(NodeView(node, available[node], total[node]) for node in total if node in available)
        return HostView(
            engines=engines,
            hottest=_find_hottest(results["hottest"]),
            frequency=first_value("frequency"),
            frequency_max=first_value("frequency_max"),
            remote=first_value("remote"),
            nodes=nodes,
            canary_cpu=first_value("canary_cpu"),
            canary_memory=first_value("canary_memory"),
            failing=tuple(sorted(values_by("failing", "collector"))),
            alerts=tuple(sorted(filter(is_shown, alerts), key=_urgency_key)),
            series=history.series_count(),
            canary_starting=canary and not engines,
            pacing=tuple(pacing),
        )


def _find_hottest(result: Sequence[tuple[tuple[tuple[str, str], ...], float]]) -> tuple[str, float] | None:
    if not result:
        return None
    labels, value = dict(result[0][0]), result[0][1]
    name_labels = ("chip", "device", "label", "sensor", "source", "dimm")
    return " ".join(labels[key] for key in name_labels if labels.get(key)), value


def is_shown(alert: Alert) -> bool:
    """Whether people are to see it: it fires, and does not fire always."""
    return alert.state is AlertState.FIRING and dict(alert.labels).get("severity") != "none"


def _urgency_key(alert: Alert) -> tuple[int, str]:
    severity = dict(alert.labels).get("severity", "none")
    return (SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES), alert.name)
