"""
Describes the agent and its History in the query API, in Prometheus' formats, for clients that look before they query.

https://prometheus.io/docs/prometheus/latest/querying/api/#config. Nothing here has a secret: of the configuration only
what a Prometheus would have too. What the agent does not measure, such as its chunks, is left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

from agent.web.context import WebContext
from agent.web.query_runner import MAX_QUERY_SECONDS
from agent.web.rules_api import format_date
from collectors import Labels
from rules.durations import format_duration
from rules.history.snapshot import Snapshot
from rules.matchers import NAME
from rules.promql import LOOKBACK_MS

TOP = 10  # entries of each statistic without the parameter `limit`

Json = dict[str, Any]


class StatusApi:
    """The answers below /api/v1/status, and the list of targets."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._started = time.monotonic()

    def describe_build(self) -> Json:
        """Returns the version; the other fields are those of a Go program, and empty."""
        unknown = dict.fromkeys(("revision", "branch", "buildUser", "buildDate", "goVersion"), "")
        return {"version": self._context.version, **unknown}

    def describe_runtime(self) -> Json:
        """Returns when the server started, its time and how long samples are kept."""
        now_ms = self._context.now_ms()
        return {
            "startTime": format_date(now_ms - round((time.monotonic() - self._started) * 1000)),
            "serverTime": format_date(now_ms),
            "hostname": self._context.identity.get("instance", ""),
            "storageRetention": self._format_retention(),
        }

    def describe_replay(self) -> Json:
        """Returns that no segment of a log is left to be replayed: samples are in memory alone."""
        return dict.fromkeys(("min", "max", "current"), 0)

    def describe_config(self) -> Json:
        """Returns what a Prometheus has too: the rules' interval and files, and the external labels."""
        files = sorted({report.group.file for report in self._context.rules().report()})
        config = {
            "global": {
                "evaluation_interval": format_duration(self._context.subquery_step_ms),
                "external_labels": dict(self._context.external_labels),
            },
            "rule_files": files,
        }
        return {"yaml": yaml.safe_dump(config, sort_keys=False)}

    def list_flags(self) -> Json:
        """Returns the limits of queries and of the storage by the names of Prometheus' flags."""
        return {
            "query.lookback-delta": format_duration(LOOKBACK_MS),
            "query.timeout": format_duration(round(MAX_QUERY_SECONDS * 1000)),
            "storage.tsdb.retention.time": self._format_retention(),
            "web.cors.origin": ".*",
            "web.external-url": self._context.external_url,
        }

    def list_targets(self) -> Json:
        """Returns the agent as the one target of its own samples, healthy while it ticks."""
        since = self._context.since_tick()
        last_ms = None if since is None else self._context.now_ms() - round(since * 1000)
        target = {
            "discoveredLabels": {},
            "labels": dict(self._context.identity),
            "scrapePool": "steadytok",
            "scrapeUrl": f"{self._context.external_url.rstrip('/')}/metrics",
            "globalUrl": f"{self._context.external_url.rstrip('/')}/metrics",
            "lastError": "",
            "lastScrape": format_date(last_ms),
            "health": "unknown" if since is None else "up",
        }
        return {"activeTargets": [target], "droppedTargets": [], "droppedTargetCounts": {}}

    def _format_retention(self) -> str:
        return format_duration(self._context.history.retention_ms)


def summarize_series(snapshot: Snapshot, limit: int) -> Json:
    """Counts the series of History by name and by label, the most frequent first."""
    return _summarize(list(snapshot.iter_series((), -(1 << 62), 1 << 62)), limit or TOP)


def _summarize(series: Iterable[Labels], limit: int) -> Json:
    pairs = Counter(pair for labels in series for pair in labels)
    names = Counter({value: count for (label, value), count in pairs.items() if label == NAME})
    values = Counter(label for label, _ in pairs)
    sizes: Counter[str] = Counter()
    for label, value in pairs:
        sizes[label] += len(value.encode("utf-8", "replace"))
    return {
        "headStats": {"numSeries": names.total(), "numLabelPairs": len(pairs)},
        "seriesCountByMetricName": _list_most_frequent(names, limit),
        "labelValueCountByLabelName": _list_most_frequent(values, limit),
        "memoryInBytesByLabelName": _list_most_frequent(sizes, limit),
        "seriesCountByLabelValuePair": _list_most_frequent(
            Counter({f"{label}={value}": count for (label, value), count in pairs.items()}), limit
        ),
    }


def _list_most_frequent(counts: Counter[str], limit: int) -> list[Json]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "value": count} for name, count in ordered[:limit]]
