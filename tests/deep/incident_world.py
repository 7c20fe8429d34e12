"""
A quarter of an hour in which memory overheats, as an agent has recorded it: the state from which a real agent resumes.

Readings are those of the machine in tests/machines/two_nodes.py, moved over time. The built-in rules are evaluated on
them, so that the alerts and their sentences are real.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from agent import configuration
from agent.alerting.alert_store import AlertStore
from agent.recorder.recorder import FOLDER, Recorder
from agent.remediation.journal import Journal, take_timestamp
from agent.remediation.model import Attempt, AuditEntry, RemediationState
from agent.sampling.binding import bind_collectors
from agent.sampling.once import collect_all
from agent.selfmetrics import definitions
from collectors import Sample
from rules.evaluator import RuleEvaluator
from rules.history.history import History

SECONDS = 900
HOTTEST, LIMIT = "4-0051", 85.0
BELOW = {"4-0050": 11.5, "4-0051": 0.0, "4-0052": 10.75, "4-0053": 13.0}  # °C that each module is below the hottest
FULL_SPEED = 46.0
SLOWED, PACED = 380.0, 620.0  # when the firmware throttles, and when the remedy paces
REMEDY, ENGINE = "cool-memory/r1", "r1"
Shape = Callable[[Sample, float], float]


def interpolate(at: float, *points: tuple[float, float]) -> float:
    """The value at a time, on straight lines between points of (time, value)."""
    for (begin, low), (end, high) in itertools.pairwise(points):
        if at < end:
            return low + (high - low) * max(0.0, at - begin) / (end - begin)
    return points[-1][1]


def make_ripple(at: float, size: float, seed: float = 0.0) -> float:
    """A small movement that is never quite the same, and the same in every run."""
    return size * (math.sin(at / 7.3 + seed) + math.sin(at / 3.1 + 2.7 * seed) + math.sin(at / 1.9 + seed)) / 3


def compute_heat(at: float) -> float:
    """°C of the hottest module: over its limit after six minutes, and held 3 °C below it by the remedy."""
    climb = interpolate(
        at, (0, 68.0), (150, 75.5), (330, 84.5), (430, 89.0), (620, 90.5), (720, 84.5), (800, 82.3), (900, 81.8)
    )
    return round((climb + make_ripple(at, 0.3)) * 4) / 4  # in quarters, as an spd5118 has it


def compute_speed(at: float) -> float:
    """Tokens per second: a third is gone while the firmware throttles."""
    level = interpolate(
        at, (0, 46.0), (330, 45.6), (390, 38.0), (450, 32.0), (620, 30.5), (700, 36.5), (800, 39.6), (900, 40.0)
    )
    return level + make_ripple(at, 0.7, 1.0)


def compute_throttling(at: float) -> float:
    """The share of time for which package 1 throttles itself."""
    return interpolate(at, (0, 0.0), (370, 0.0), (450, 0.13), (620, 0.15), (700, 0.01), (720, 0.0), (900, 0.0))


THROTTLED_SECONDS = list(itertools.accumulate(map(compute_throttling, range(SECONDS))))


def _compute_module_heat(sample: Sample, at: float) -> float:
    name = dict(sample.labels).get("dimm") or dict(sample.labels)["device"]
    below = BELOW.get(name)
    if below is None:
        return sample.value + make_ripple(at, 0.5)  # another node's, or no module
    return compute_heat(at) - below


def _compute_headroom(sample: Sample, at: float) -> float:
    return LIMIT - _compute_module_heat(sample, at)


def _compute_frequency(sample: Sample, at: float) -> float:
    number = int(dict(sample.labels)["policy"])
    level = interpolate(at, (0, 3.55), (370, 3.5), (450, 2.6), (620, 2.5), (720, 3.45), (900, 3.5))
    return (level if number >= 20 else 3.55) * 1e9 + make_ripple(at, 6e7, number)


def _compute_throttled_seconds(sample: Sample, at: float) -> float:
    if dict(sample.labels)["package"] == "0":
        return sample.value
    share = 1.0 if "core" not in dict(sample.labels) else 0.3 if dict(sample.labels)["core"] == "3" else 0.2
    return sample.value - share * (THROTTLED_SECONDS[-1] - THROTTLED_SECONDS[int(at)])


def _compute_throttle_events(sample: Sample, at: float) -> float:
    return sample.value - (0 if dict(sample.labels)["package"] == "0" else int(max(0.0, 700 - max(at, 370)) / 5))


def _compute_allocations(sample: Sample, at: float) -> float:
    per_second = 400.0 + 9_600 * (sample.metric.name == "steadytok_numastat_numa_hit_total")
    return sample.value - per_second * (SECONDS - at - make_ripple(at, 6.0, 3.0))


def _compute_available(sample: Sample, at: float) -> float:
    if dict(sample.labels)["node"] == "0":
        return sample.value + make_ripple(at, 2e8)
    return sample.value - 2**30 * interpolate(at, (0, 0.0), (900, 14.0)) + make_ripple(at, 2e8)


def _compute_kv_cache(_sample: Sample, at: float) -> float:
    return 0.3 + 0.2 * at / SECONDS + make_ripple(at, 0.05, 2.0)


SHAPES: dict[str, Shape] = {
    "steadytok_dimm_temperature_celsius": _compute_module_heat,
    "steadytok_dimm_headroom_celsius": _compute_headroom,
    "steadytok_cpufreq_frequency_hertz": _compute_frequency,
    "steadytok_thermal_throttle_core_seconds_total": _compute_throttled_seconds,
    "steadytok_thermal_throttle_package_seconds_total": _compute_throttled_seconds,
    "steadytok_thermal_throttle_core_events_total": _compute_throttle_events,
    "steadytok_thermal_throttle_package_events_total": _compute_throttle_events,
    "steadytok_numastat_other_node_total": _compute_allocations,
    "steadytok_numastat_numa_hit_total": _compute_allocations,
    "steadytok_node_meminfo_available_bytes": _compute_available,
    "steadytok_engine_kv_cache_usage_ratio": _compute_kv_cache,
}


def record(config_path: Path, root: Path, folder: Path, now_ms: int) -> None:
    """Writes the recording, the alerts and the journal of the last quarter of an hour into a folder of state."""
    config, modules = configuration.load_configuration(config_path)
    begin_ms = now_ms - SECONDS * 1000
    history = History(SECONDS * 2000, identity=config.build_identity_labels())
    rules = RuleEvaluator(
        configuration.load_rule_set(config, "incident"),
        interval_ms=1000,
        external_labels=config.build_external_labels(),
        external_url=f"http://{config.web.listen}",
        clock=time.perf_counter,
    )
    folder.mkdir(parents=True)
    alerts, recorder = AlertStore(folder), Recorder(folder / FOLDER)
    results = collect_all(bind_collectors(config, modules), str(root))
    readings = _merge_joined({result.collector: tuple(result.samples) for result in results})
    for second in range(0, SECONDS, 2):
        at_ms = begin_ms + second * 1000
        for name, samples in readings.items():
            history.record(name, at_ms, _move(samples, second))
        history.record(definitions.SAMPLING_GROUP, at_ms, list(_make_own_readings(second)))
        rules.evaluate(history, at_ms)
        recorder.flush_if_due(history, at_ms)
        recorder.wait(20)
    recorder.close(history, now_ms)
    alerts.save(rules.export_alerts(), {}, now_ms)
    alerts.close()
    _write_journal(folder, begin_ms, now_ms)


def _merge_joined(readings: dict[str, tuple[Sample, ...]]) -> dict[str, tuple[Sample, ...]]:
    """The same with what is known of modules among the readings of its source, as an agent records it."""
    for sample in readings.pop("dimm"):
        readings[dict(sample.labels)["source"]] += (sample,)
    return readings


def _move(samples: tuple[Sample, ...], at: float) -> list[Sample]:
    return [
        sample._replace(value=shape(sample, at)) if (shape := SHAPES.get(sample.metric.name)) else sample
        for sample in samples
    ]


def _make_own_readings(at: float) -> Iterator[Sample]:
    """What the agent says of itself and of its engine."""
    yield definitions.BUILD_INFO.sample(1.0, version=metadata.version("steadytok"))
    yield definitions.CONFIGURED.sample(1.0, engine=ENGINE)
    yield definitions.TOKENS_PER_SECOND.sample(compute_speed(at), engine=ENGINE)
    yield definitions.BASELINE.sample(FULL_SPEED, engine=ENGINE)


def _write_journal(folder: Path, begin_ms: int, now_ms: int) -> None:
    """The remedy has paced the engine, and it helped."""
    planned_ms = begin_ms + round(PACED * 1000)
    labels = (("alertname", "DimmHot"), ("dimm", HOTTEST), ("severity", "critical"))
    resource = f"pace engine {ENGINE}"
    lines = (
        (0, "intended", f"engine {ENGINE} from full speed to a duty of 0.87"),
        (400, "did", ""),
        (150_000, "helped", f"{ENGINE} 131 -> 96 ms per token"),
    )
    entries = [
        AuditEntry(planned_ms + later, REMEDY, labels, resource, what, says, act=1) for later, what, says in lines
    ]
    attempt = Attempt(1, REMEDY, resource, planned_ms, planned_ms, observed=False)
    state = RemediationState(next_id=2, attempts=(attempt,), effects={REMEDY: lines[-1][2]})
    journal, done = Journal(folder, lambda: take_timestamp(now_ms)), threading.Event()
    journal.commit(state, entries, lambda fault: done.set() if fault is None else None)
    assert done.wait(20), "the journal was not written"
    journal.close()
