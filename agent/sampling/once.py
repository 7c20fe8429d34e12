"""Reads collectors once, for the CLI: each in a thread, so that a stuck read costs no more than the timeout."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path

from agent.sampling.passes import CollectionResult, Outcome, ThreadRunner, collect_readings
from agent.sampling.plugins import Collector
from collectors import Host

TIMEOUT = 10.0  # seconds for all collectors together; longer if one of them has a longer deadline


def collect_all(
    collectors: Sequence[Collector], root: str, timeout: float = TIMEOUT, *, cache_dir: Path | None = None
) -> list[CollectionResult]:
    """Runs one pass of each collector and returns the results in the same order; a pass that times out has failed."""
    timeout = max([timeout, *(collector.deadline for collector in collectors)])
    results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()
    began = time.monotonic()
    plain_collectors = [collector for collector in collectors if collector.join is None]
    for collector in plain_collectors:
        ThreadRunner(collector.name, Host(root, cache_dir), results.put).start(collector, began)
    results_by_name = _await_results(results, {collector.name for collector in plain_collectors}, began + timeout)
    for collector in collectors:
        if collector.join is not None:
            results_by_name[collector.name] = _join_results(collector, results_by_name, Host(root))
    timeout_reason = f"did not return within {timeout:g} s"
    return [
        results_by_name.get(c.name) or CollectionResult(c.name, began, timeout, 0.0, (), (), timeout_reason)
        for c in collectors
    ]


def _await_results(
    results: queue.SimpleQueue[CollectionResult], names: set[str], deadline: float
) -> dict[str, CollectionResult]:
    results_by_name: dict[str, CollectionResult] = {}
    while names - results_by_name.keys():
        try:
            result = results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        results_by_name[result.collector] = result
    return results_by_name


def _join_results(collector: Collector, results_by_name: dict[str, CollectionResult], host: Host) -> CollectionResult:
    """Returns the join of all its sources, as old as the oldest of them."""
    sources = [results_by_name[name] for name in collector.after if name in results_by_name]
    join, began = collector.join, time.monotonic()
    assert join is not None
    result = collect_readings(
        collector.name, lambda: join({s.collector: s.samples for s in sources}, host), host, began
    )
    return result._replace(began=min((source.began for source in sources), default=began))


def add_sources(names: Sequence[str], collectors: Sequence[Collector]) -> list[Collector]:
    """Returns the named collectors and their sources."""
    selected_names = set(names)
    for collector in collectors:
        if collector.name in names:
            selected_names |= set(collector.after)
    return [collector for collector in collectors if collector.name in selected_names]


def select_failed(results: Sequence[CollectionResult]) -> list[CollectionResult]:
    """Returns the failed passes."""
    return [result for result in results if result.outcome is Outcome.FAILED]
