"""`web.metrics: compact`: one series by package or node for what every core or CPU has, for a fleet's scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.web.exposition import LiveSeries
from collectors import Labels, Metric

FINE_LABELS = frozenset({"core", "policy"})
"""The labels of what there are hundreds of on one host."""


def compact_series(series: Iterable[LiveSeries]) -> Iterator[LiveSeries]:
    """The same with those labels left out: counters as sums, gauges as means; the agent's own rules still see all."""
    groups: dict[tuple[Metric, Labels], list[tuple[float, int]]] = {}
    for metric, labels, value, at_ms in series:
        if FINE_LABELS.isdisjoint(name for name, _ in labels):
            yield metric, labels, value, at_ms
        else:
            coarse_labels = tuple(pair for pair in labels if pair[0] not in FINE_LABELS)
            groups.setdefault((metric, coarse_labels), []).append((value, at_ms))
    for (metric, labels), members in groups.items():
        total = sum(value for value, _ in members)
        value = total if metric.kind == "counter" else total / len(members)
        yield metric, labels, value, max(at_ms for _, at_ms in members)
