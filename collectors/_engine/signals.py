"""Combines the series of an engine's metrics to one value for each common signal, or says why there is none."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from collectors._engine.dialects import Dialect, MetricSource
from collectors._engine.domains import Signal, explain_refusal
from collectors._engine.exposition import Point, Points


class SignalReading(NamedTuple):
    """The value of a signal, or the fault that made it missing; neither where this engine does not expose it."""

    value: float | None = None
    fault: str | None = None


def read_signal(dialect: Dialect, signal: Signal, points: Points) -> SignalReading:
    """Returns the value of a signal; a part that cannot be right makes it missing, since the rest is not the whole."""
    for source in dialect.sources.get(signal, ()):
        if source.name not in points:
            continue
        series = points[source.name]
        if series is None:
            # The metric exists but is unreadable; another name might count something else.
            return SignalReading(fault=f"the value of {source.name} cannot be read")
        selected = [point for point in series if _is_selected(point, source)]
        if selected:
            return _combine(source, dialect, signal, selected)
    return SignalReading()


def _is_selected(point: Point, source: MetricSource) -> bool:
    return all(point.labels.get(label) in values for label, values in source.label_values.items())


def _combine(source: MetricSource, dialect: Dialect, signal: Signal, points: list[Point]) -> SignalReading:
    refusals = (explain_refusal(signal, point.value) for point in points)
    refusal = next((refusal for refusal in refusals if refusal is not None), None)
    if refusal is None:
        parts = points
        for label in (source.total_label, *sorted(dialect.shards)):
            parts = _drop_parts(parts, label)
        value = max(point.value for point in parts) if source.largest else _sum_replicas(parts, dialect)
        refusal = explain_refusal(signal, value)
    if refusal is not None:
        return SignalReading(fault=f"{source.name} {refusal}")
    return SignalReading(value)


def _drop_parts(points: list[Point], label: str | None) -> list[Point]:
    """Leaves out the series whose total is exposed beside them."""
    if label is None:
        return points
    totals = {_identify(point, {label}) for point in points if not point.labels.get(label)}
    return [point for point in points if not point.labels.get(label) or _identify(point, {label}) not in totals]


def _sum_replicas(points: list[Point], dialect: Dialect) -> float:
    """Returns the sum over replicas; ranks of one replica count the same tokens, so only the highest counts."""
    ranks = {label for point in points for label in point.labels if _is_rank(label, dialect)}
    replicas: dict[frozenset[tuple[str, str]], float] = {}
    for point in points:
        replica = _identify(point, ranks)
        replicas[replica] = max(point.value, replicas.get(replica, point.value))
    return sum(replicas.values())


def _is_rank(label: str, dialect: Dialect) -> bool:
    """Returns True for a label whose series repeat each other: of all kinds of parallelism, only data's add up."""
    return label in dialect.ranks or (label.endswith("_rank") and label != "dp_rank" and label not in dialect.replicas)


def _identify(point: Point, without: Set[str]) -> frozenset[tuple[str, str]]:
    return frozenset((label, value) for label, value in point.labels.items() if value and label not in without)
