"""
Reads the counters of prometheus_client's registry as Readings, so that History has every series of /metrics.

The parts that count between ticks (senders, access control, the webhook) count in a registry. A series that was only
rendered from it could be scraped, but no rule and no query of the agent itself would see it.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from collectors import Metric, Sample, counter, gauge


class RegistryReader:
    """A registry, and the Metric of each name in it, which stays the same object so that History keeps its layout."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._metrics: dict[str, Metric] = {}

    def read(self) -> Iterator[Sample]:
        """Reads every series; the sum and the count of a summary are counters of their own."""
        for family in self._registry.collect():
            define = gauge if family.type == "gauge" else counter
            for sample in family.samples:
                metric = self._metrics.get(sample.name)
                if metric is None:
                    metric = self._metrics[sample.name] = define(sample.name, family.documentation)
                labels = tuple(sorted(pair for pair in sample.labels.items() if pair[1]))
                yield Sample(metric, labels, sample.value)
