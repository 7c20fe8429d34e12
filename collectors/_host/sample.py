"""Defines the values that all rooms exchange: a Metric describes a measurement, a Sample is one measured value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Labels = tuple[tuple[str, str], ...]
"""Label pairs sorted by name; an empty value is the same as no label, as in Prometheus."""


class Sample(NamedTuple):
    """One value of a series. The time of reading belongs to the collector's whole pass, not to a Sample."""

    metric: Metric
    labels: Labels
    value: float


class Note(NamedTuple):
    """One missing reading and the reason for it."""

    path: str
    reason: str


Reading = Sample | None
"""A collector yields Readings: a Sample, or None where the reading is missing (never 0)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A name with type and help.

    Names end in their base unit (`_bytes`, `_seconds`, `_celsius`, `_hertz`, `_ratio`), counters in `_total`.
    https://prometheus.io/docs/practices/naming/
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str

    def sample(self, value: float | None, /, **labels: str) -> Reading:
        """Returns this metric with a value, or None where there is no value."""
        if value is None:
            return None
        pairs = tuple(sorted(labels.items()))
        if not all(labels.values()):
            pairs = tuple(pair for pair in pairs if pair[1])
        return Sample(self, pairs, float(value))


def counter(name: str, help: str) -> Metric:
    """Makes a metric whose value only grows, except when its source restarts; its name ends in `_total`."""
    return Metric(name, "counter", help)


def gauge(name: str, help: str) -> Metric:
    """Makes a metric whose value may rise and fall."""
    return Metric(name, "gauge", help)
