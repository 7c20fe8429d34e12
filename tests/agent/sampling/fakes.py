"""Collectors, results and a runner that a test controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from collectors import Host, Reading, Sample, gauge

METRIC = gauge("steadytok_test_value", "A value.")


def make_collector(name: str = "test", interval: float = 1.0, **more: object) -> Collector:
    """Returns a collector of this name that yields nothing."""
    fields: dict[str, object] = {
        "description": "",
        "metrics": (METRIC,),
        "collect": lambda host: (),
        "deadline": 0.5,
        "isolated": False,
    }
    return Collector(name=name, interval=interval, **{**fields, **more})  # type: ignore[arg-type]


def make_result(
    name: str, began: float, *, values: int = 1, cpu: float = 0.0, error: str | None = None
) -> CollectionResult:
    """Returns a finished pass with so many samples."""
    samples = tuple(Sample(METRIC, (("n", str(n)),), 1.0) for n in range(values))
    return CollectionResult(name, began, 0.01, cpu, samples, (), error)


def make_join(name: str = "join", after: tuple[str, ...] = ("a", "b"), awaits: tuple[str, ...] = ()) -> Collector:
    """Returns a join that counts the samples of each source, and leaves a note for each."""

    def join(readings: Mapping[str, Sequence[Sample]], host: Host) -> Iterator[Reading]:
        for source, samples in readings.items():
            host.note(source, "counted")
            yield METRIC.sample(float(len(samples)), source=source)

    return make_collector(name, after=after, awaits=awaits, join=join)


class ManualRunner:
    """A runner whose passes end when the test sets `busy_since` to None."""

    def __init__(self) -> None:
        self.busy_since: float | None = None
        self.start_times: list[float] = []

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self.start_times.append(began)
