"""Reads temperatures, frequency and throttling of the host through its collectors, before and after a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent.sampling.once import add_sources, collect_all
from agent.sampling.plugins import Collector
from collectors import Sample

COLLECTORS = ("dimm", "hwmon", "cpufreq", "thermal_throttle")
TIMEOUT = 3.0  # seconds; a slower sensor counts as missing
_PROCESSORS = ("coretemp", "k10temp")


class Heat(NamedTuple):
    """The hottest sensors (degrees Celsius), mean frequency (hertz), and throttling events; None: no sensor."""

    dimm: float | None = None
    processor: float | None = None
    hertz: float | None = None
    throttled: float | None = None


def read_heat(collectors: Sequence[Collector], root: str = "/") -> Heat:
    """Reads the sensors once."""
    available = [name for name in COLLECTORS if any(collector.name == name for collector in collectors)]
    results = collect_all(add_sources(available, collectors), root, TIMEOUT)
    samples = [sample for result in results for sample in result.samples]
    hertz = _values(samples, "steadytok_cpufreq_frequency_hertz")
    events = [
        sum(counts)
        for unit in ("core", "package")
        if (counts := _values(samples, f"steadytok_thermal_throttle_{unit}_events_total"))
    ]
    return Heat(
        dimm=max(_values(samples, "steadytok_dimm_temperature_celsius"), default=None),
        processor=max(_values(samples, "steadytok_hwmon_temperature_celsius", _PROCESSORS), default=None),
        hertz=sum(hertz) / len(hertz) if hertz else None,
        throttled=sum(events) if events else None,
    )


def _values(samples: Iterable[Sample], name: str, chips: Sequence[str] = ()) -> list[float]:
    return [
        sample.value
        for sample in samples
        if sample.metric.name == name and (not chips or dict(sample.labels).get("chip", "").startswith(tuple(chips)))
    ]
