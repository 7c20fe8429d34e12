"""Simulates an hour on the tree: extrapolates two real readings of every collector, second by second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.config.schema import AgentConfig, EngineTarget
from agent.sampling import once, plugins
from agent.sampling.binding import bind_collectors
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from agent.selfmetrics import definitions
from bench.tree import HostShape, advance_tree, build_tree
from collectors import Sample
from rules.history.history import History

ENGINE = EngineTarget(name="r1", url="http://127.0.0.1:8000", kind="reference")
AGENT_GROUP = "agent"


class SamplingGroup(NamedTuple):
    """A sampling group: its interval, its first samples, and the gain of each sample per second."""

    name: str
    interval: int
    samples: tuple[Sample, ...]
    gains: tuple[float, ...]

    def make_samples(self, second: int) -> list[Sample]:
        """Returns the samples of this second; gauges alternate between two values."""
        return [
            sample._replace(value=sample.value + gain * (second if sample.metric.kind == "counter" else second % 2))
            for sample, gain in zip(self.samples, self.gains, strict=True)
        ]


def build_groups(folder: Path) -> list[SamplingGroup]:
    """Returns a group for each collector on a new tree below this folder, with an engine, and one for the agent."""
    root, shape = folder / "root", HostShape()
    build_tree(root, shape)
    bound_collectors = bind_collectors(AgentConfig(engines=(ENGINE,)), plugins.load_collectors())
    before = _read_all(bound_collectors, root, 0)
    advance_tree(root, shape, 1)
    after = _read_all(bound_collectors, root, 1)
    groups = [_build_group(collector, before[collector.name], after[collector.name]) for collector in bound_collectors]
    return [group for group in groups if group.samples] + [_build_agent_group([group.name for group in groups])]


def _read_all(bound_collectors: list[Collector], root: Path, second: int) -> dict[str, CollectionResult]:
    metrics_path = root / f"http/{ENGINE.url.removeprefix('http://')}/metrics"
    metrics_path.parent.mkdir(parents=True, exist_ok=True)
    metrics_path.write_text(_render_engine_metrics(second))
    return {result.collector: result for result in once.collect_all(bound_collectors, str(root))}


def _render_engine_metrics(second: int) -> str:
    values = {
        "generated_tokens_total": 40 * second,
        "prompt_tokens_total": 200 * second,
        "decode_seconds_total": 0.9 * second,
        "prompt_seconds_total": 0.1 * second,
        "requests_running": 4,
        "requests_waiting": second % 2,
        "duty": 1.0,
        "kv_cache_usage_ratio": 0.5,
        "resident_bytes": 16 << 30,
        "cpu_seconds_total": 60 * second,
    }
    return "".join(f"steadytok_reference_{name} {value}\n" for name, value in values.items())


def _build_group(collector: Collector, before: CollectionResult, after: CollectionResult) -> SamplingGroup:
    later_values = {(sample.metric.name, sample.labels): sample.value for sample in after.samples}
    gains = (
        later_values.get((sample.metric.name, sample.labels), sample.value) - sample.value for sample in before.samples
    )
    return SamplingGroup(collector.name, max(1, round(collector.interval)), before.samples, tuple(gains))


def _build_agent_group(names: list[str]) -> SamplingGroup:
    samples = tuple(sample for sample in _iter_agent_readings(names) if sample is not None)
    return SamplingGroup(AGENT_GROUP, 1, samples, (0.0,) * len(samples))


def _iter_agent_readings(names: list[str]) -> Iterator[Sample | None]:
    for name in names:
        yield definitions.SUCCESS.sample(1.0, collector=name)
        yield definitions.AGE.sample(0.4, collector=name)
        yield definitions.INTERVAL.sample(1.0, collector=name)
        yield definitions.OVERRUNS.sample(0.0, collector=name)
        yield definitions.DURATION.sample(0.003, collector=name)
        yield definitions.CPU.sample(0.001, collector=name)
        yield definitions.MISSING.sample(0.0, collector=name)
    yield definitions.TOKENS_PER_SECOND.sample(44.0, engine=ENGINE.name)
    yield definitions.BASELINE.sample(45.0, engine=ENGINE.name)
    yield definitions.CONFIGURED.sample(1.0, engine=ENGINE.name)


def record(history: History, groups: list[SamplingGroup], start_ms: int, second: int) -> None:
    """Records one second: every group that is due in it."""
    for group in groups:
        if second % group.interval == 0:
            history.record(group.name, start_ms + second * 1000, group.make_samples(second))
