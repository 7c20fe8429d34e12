"""An hour on the tree without waiting for it: two real readings of every collector, continued second by second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.config.schema import Config, EngineTarget
from agent.configuration import bind_all
from agent.sampling import once, plugins
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Pass
from agent.selfmetrics import definitions
from bench.tree import Shape, build, move
from collectors import Sample
from rules.history.history import History

ENGINE = EngineTarget(name="r1", url="http://127.0.0.1:8000", kind="reference")
OWN = "agent"


class Course(NamedTuple):
    """A sampling group: how often it is read, its first reading, and what a counter gains in a second."""

    name: str
    every: int
    samples: tuple[Sample, ...]
    gains: tuple[float, ...]

    def at(self, second: int) -> list[Sample]:
        """The reading of this second; gauges go to and fro between two values."""
        return [
            sample._replace(value=sample.value + gain * (second if sample.metric.kind == "counter" else second % 2))
            for sample, gain in zip(self.samples, self.gains, strict=True)
        ]


def courses(place: Path) -> list[Course]:
    """Every collector of the agent on a new tree below this folder, an engine and the agent's own readings with it."""
    root, shape = place / "root", Shape()
    build(root, shape)
    found = bind_all(Config(engines=(ENGINE,)), plugins.modules())
    before = _read(found, root, 0)
    move(root, shape, 1)
    after = _read(found, root, 1)
    joined = [_course(collector, before[collector.name], after[collector.name]) for collector in found]
    return [course for course in joined if course.samples] + [_own([course.name for course in joined])]


def _read(found: list[Collector], root: Path, second: int) -> dict[str, Pass]:
    page = root / f"http/{ENGINE.url.removeprefix('http://')}/metrics"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_engine(second))
    return {result.collector: result for result in once.read_once(found, str(root))}


def _engine(second: int) -> str:
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


def _course(collector: Collector, before: Pass, after: Pass) -> Course:
    later = {(sample.metric.name, sample.labels): sample.value for sample in after.samples}
    gains = (later.get((sample.metric.name, sample.labels), sample.value) - sample.value for sample in before.samples)
    return Course(collector.name, max(1, round(collector.interval)), before.samples, tuple(gains))


def _own(names: list[str]) -> Course:
    samples = tuple(sample for sample in _own_readings(names) if sample is not None)
    return Course(OWN, 1, samples, (0.0,) * len(samples))


def _own_readings(names: list[str]) -> Iterator[Sample | None]:
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


def record(history: History, sources: list[Course], start_ms: int, second: int) -> None:
    """One second of every source that is read in it."""
    for source in sources:
        if second % source.every == 0:
            history.record(source.name, start_ms + second * 1000, source.at(second))
