"""Temperatures, frequency and throttling of the host, as its collectors read them, before a run and after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent.sampling.once import read_once, with_sources
from agent.sampling.plugins import Collector
from collectors import Sample

NAMES = ("dimm", "hwmon", "cpufreq", "thermal_throttle")
PATIENCE = 3.0  # seconds; a sensor that takes longer is missing
_PROCESSORS = ("coretemp", "k10temp")


class Heat(NamedTuple):
    """The hottest sensors in degrees Celsius, the mean frequency in hertz, events of throttling; None: no sensor."""

    dimm: float | None = None
    processor: float | None = None
    hertz: float | None = None
    throttled: float | None = None


def read(collectors: Sequence[Collector], root: str = "/") -> Heat:
    """One reading; what this host does not tell is None."""
    named = [name for name in NAMES if any(collector.name == name for collector in collectors)]
    passes = read_once(with_sources(named, collectors), root, PATIENCE)
    samples = [sample for result in passes for sample in result.samples]
    hertz = _values(samples, "steadytok_cpufreq_frequency_hertz")
    events = [
        sum(found)
        for unit in ("core", "package")
        if (found := _values(samples, f"steadytok_thermal_throttle_{unit}_events_total"))
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
