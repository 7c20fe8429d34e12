"""Reads collectors once, for the commands that print: each in a thread, so that a stuck one costs a deadline."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path

from agent.sampling.plugins import Collector
from agent.sampling.sampler import Outcome, Pass, ThreadLane, perform
from collectors import Host

PATIENCE = 10.0  # seconds for all collectors together, or the longest of their own deadlines


def read_once(
    collectors: Sequence[Collector], root: str, patience: float = PATIENCE, *, shelf: Path | None = None
) -> list[Pass]:
    """One pass of each collector, in the order given; one that does not return in time has failed."""
    patience = max([patience, *(collector.deadline for collector in collectors)])
    answers: queue.SimpleQueue[Pass] = queue.SimpleQueue()
    began = time.monotonic()
    reading = [collector for collector in collectors if collector.join is None]
    for collector in reading:
        ThreadLane(collector.name, Host(root, shelf), answers.put).start(collector, began)
    passes = _await(answers, {collector.name for collector in reading}, began + patience)
    for collector in collectors:
        if collector.join is not None:
            passes[collector.name] = _joined(collector, passes, Host(root))
    late = f"did not return within {patience:g} s"
    return [passes.get(c.name) or Pass(c.name, began, patience, 0.0, (), (), late) for c in collectors]


def _await(answers: queue.SimpleQueue[Pass], names: set[str], until: float) -> dict[str, Pass]:
    passes: dict[str, Pass] = {}
    while names - passes.keys():
        try:
            result = answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        passes[result.collector] = result
    return passes


def _joined(collector: Collector, passes: dict[str, Pass], host: Host) -> Pass:
    """The join of all its sources, as old as the oldest of them."""
    sources = [passes[name] for name in collector.after if name in passes]
    join, began = collector.join, time.monotonic()
    assert join is not None
    result = perform(collector.name, lambda: join({s.collector: s.samples for s in sources}, host), host, began)
    return result._replace(began=min((source.began for source in sources), default=began))


def with_sources(names: Sequence[str], collectors: Sequence[Collector]) -> list[Collector]:
    """The named collectors and those that they are made from."""
    wanted = set(names)
    for collector in collectors:
        if collector.name in names:
            wanted |= set(collector.after)
    return [collector for collector in collectors if collector.name in wanted]


def failed(passes: Sequence[Pass]) -> list[Pass]:
    """The passes that should have given something and did not."""
    return [result for result in passes if result.outcome is Outcome.FAILED]
