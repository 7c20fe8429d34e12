"""`web.metrics: compact`: one series by package or node for what every core or CPU has, for a fleet's scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.web.exposition import Live
from collectors import Labels, Metric

FINE = frozenset({"core", "policy"})
"""The labels of what there are hundreds of on one host."""


def compact(series: Iterable[Live]) -> Iterator[Live]:
    """The same with those labels left out: counters as sums, gauges as means; the agent's own rules still see all."""
    together: dict[tuple[Metric, Labels], list[tuple[float, int]]] = {}
    for metric, labels, value, at_ms in series:
        if FINE.isdisjoint(name for name, _ in labels):
            yield metric, labels, value, at_ms
        else:
            rest = tuple(pair for pair in labels if pair[0] not in FINE)
            together.setdefault((metric, rest), []).append((value, at_ms))
    for (metric, labels), found in together.items():
        total = sum(value for value, _ in found)
        value = total if metric.kind == "counter" else total / len(found)
        yield metric, labels, value, max(at_ms for _, at_ms in found)
