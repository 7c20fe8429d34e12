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

_TEXTS = {
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
    learnt: float
    trail: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """One NUMA node's memory, in bytes."""

    node: str
    available: float
    total: float


@dataclass(frozen=True, slots=True)
class View:
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
    starting: bool
    pacing: tuple[str, ...] = ()
    """How and why each paced engine is held, a sentence each."""


class Viewer:
    """Asks History for the view; the questions are compiled once."""

    def __init__(self) -> None:
        self._queries: dict[str, promql.Query] = {name: promql.compile(text) for name, text in _TEXTS.items()}
        self._speed = promql.compile("steadytok_engine_tokens_per_second")

    def _trails(self, history: History, now_ms: int) -> dict[str, tuple[float | None, ...]]:
        matrix = self._speed.over(history, now_ms - TRAIL_MS + TRAIL_STEP_MS, now_ms, TRAIL_STEP_MS)
        rows = zip(matrix.labels, matrix.values.tolist(), matrix.present.tolist(), strict=True)
        return {
            dict(labels).get("engine", ""): tuple(
                v if there else None for v, there in zip(values, present, strict=True)
            )
            for labels, values, present in rows
        }

    def view(
        self,
        history: History,
        alerts: Sequence[Alert],
        baseline: Baseline,
        now_ms: int,
        *,
        canary: bool = False,
        pacing: Sequence[str] = (),
    ) -> View:
        """The host at `now_ms`; `canary`: an engine of ours is to be there; `pacing`: what is held, and why."""
        asked = {name: list(query.at(history, now_ms)) for name, query in self._queries.items()}

        def one(name: str) -> float | None:
            return asked[name][0][1] if asked[name] else None

        def each(name: str, label: str) -> dict[str, float]:
            return {dict(labels).get(label, ""): value for labels, value in asked[name]}

        speeds = baseline.now(history, now_ms)
        trails = self._trails(history, now_ms)
        engines = tuple(
            EngineView(
                name, up == 1, speeds.get(name), baseline.value(name), baseline.progress(name), trails.get(name, ())
            )
            for name, up in sorted(each("engines", "engine").items())
        )
        total = each("node_total", "node")
        available = each("node_available", "node")
        nodes = tuple(NodeView(node, available[node], total[node]) for node in total if node in available)
        return View(
            engines=engines,
            hottest=_hottest(asked["hottest"]),
            frequency=one("frequency"),
            frequency_max=one("frequency_max"),
            remote=one("remote"),
            nodes=nodes,
            canary_cpu=one("canary_cpu"),
            canary_memory=one("canary_memory"),
            failing=tuple(sorted(each("failing", "collector"))),
            alerts=tuple(sorted(filter(shown, alerts), key=_urgency)),
            series=history.series_count(),
            starting=canary and not engines,
            pacing=tuple(pacing),
        )


def _hottest(found: Sequence[tuple[tuple[tuple[str, str], ...], float]]) -> tuple[str, float] | None:
    if not found:
        return None
    labels, value = dict(found[0][0]), found[0][1]
    told = ("chip", "device", "label", "sensor", "source", "dimm")
    return " ".join(labels[key] for key in told if labels.get(key)), value


def shown(alert: Alert) -> bool:
    """Whether people are to see it: it fires, and does not fire always."""
    return alert.state is AlertState.FIRING and dict(alert.labels).get("severity") != "none"


def _urgency(alert: Alert) -> tuple[int, str]:
    severity = dict(alert.labels).get("severity", "none")
    return (SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES), alert.name)
