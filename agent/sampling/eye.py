"""
The eye: a process of its own for collectors that can block, so that it can be killed and replaced.

`python -m agent.sampling.eye ROOT [SHELF]` reads one order a line from standard input, `{"collect": NAME, "own": {…}}`,
and writes one Pass a line to standard output. Each collector has a thread here too: one stuck sensor hides no others.
It ends when its input closes, so it cannot outlive the agent.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import Any

import msgspec

from agent.sampling import plugins
from agent.sampling.sampler import Pass, ThreadLane
from collectors import Host, Metric, Note, Sample


class Order(msgspec.Struct, frozen=True):
    """One pass is wanted; `own` are the collector's own keys of the configuration."""

    collect: str
    own: dict[str, Any] | None = None


class Answer(msgspec.Struct, frozen=True):
    """A Pass as it crosses the pipe: metrics once, samples as (index of metric, labels, value)."""

    collector: str
    seconds: float
    cpu_seconds: float
    metrics: tuple[tuple[str, str, str], ...]
    samples: tuple[tuple[int, tuple[tuple[str, str], ...], float | str], ...]
    notes: tuple[tuple[str, str], ...]
    error: str | None = None
    again: float | None = None


def answer_of(result: Pass) -> Answer:
    """A Pass made ready for the pipe; NaN and the infinities, which JSON has not, go as text."""
    places: dict[Metric, int] = {}
    samples = tuple(
        (places.setdefault(s.metric, len(places)), s.labels, s.value if abs(s.value) < float("inf") else str(s.value))
        for s in result.samples
    )
    metrics = tuple((metric.name, metric.kind, metric.help) for metric in places)
    notes, ended = tuple(result.notes), (result.error, result.again)
    return Answer(result.collector, result.seconds, result.cpu_seconds, metrics, samples, notes, *ended)


def pass_of(answer: Answer, began: float) -> Pass:
    """The Pass that an Answer carries; `began` is when the agent gave the order."""
    metrics = [Metric(name, "counter" if kind == "counter" else "gauge", told) for name, kind, told in answer.metrics]
    samples = tuple(Sample(metrics[place], labels, float(value)) for place, labels, value in answer.samples)
    notes = tuple(Note(*note) for note in answer.notes)
    ended = (answer.error, answer.again)
    return Pass(answer.collector, began, answer.seconds, answer.cpu_seconds, samples, notes, *ended)


class Eye:
    """The collectors of this process and their threads."""

    def __init__(self, root: str, shelf: str | None = None) -> None:
        self._root = root
        self._shelf = shelf
        self._modules = plugins.modules()
        self._lanes: dict[str, ThreadLane] = {}
        self._collectors: dict[str, tuple[Any, plugins.Collector]] = {}
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        # Answers have a descriptor of their own: what a library prints must not stand between them.
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def obey(self, order: Order) -> None:
        """Starts the pass that is ordered; the answer follows when it has ended."""
        try:
            collector = self._collector(order)
        except Exception as failure:  # a collector that cannot be loaded must not take the others' eye with it
            told = f"{type(failure).__name__}: {failure}"
            return self._answer(Pass(order.collect, time.monotonic(), 0.0, 0.0, (), (), told))
        lane = self._lanes.get(order.collect)
        if lane is None:
            lane = self._lanes[order.collect] = ThreadLane(order.collect, Host(self._root, self._shelf), self._answer)
        if lane.busy_since is None:
            lane.start(collector, time.monotonic())
        return None

    def _collector(self, order: Order) -> plugins.Collector:
        known = self._collectors.get(order.collect)
        if known is None or known[0] != order.own:
            if order.collect not in self._modules:  # a third party's: that it is ordered means that it is enabled
                self._modules |= plugins.modules({order.collect})
            module = self._modules[order.collect]
            kind = plugins.config_types(self._modules)[order.collect]
            own = msgspec.convert(order.own, kind) if kind is not None and order.own is not None else None
            known = (order.own, plugins.bind(module, order.collect, interval=None, deadline=None, own=own))
            self._collectors[order.collect] = known
        return known[1]

    def _answer(self, result: Pass) -> None:
        try:
            line = self._encoder.encode(answer_of(result)) + b"\n"
        except (UnicodeError, ValueError) as error:  # a label that cannot cross costs this pass, not the lane
            told = f"the answer cannot be sent: {error}"
            line = self._encoder.encode(answer_of(result._replace(samples=(), notes=(), error=told))) + b"\n"
        with self._lock:
            self._answers.write(line)
            self._answers.flush()


def main() -> None:
    """Reads orders until the agent closes the pipe."""
    eye = Eye(*sys.argv[1:3])
    gc.freeze()  # what was imported lasts: the collector of cycles need not walk it
    gc.set_threshold(50_000, 20, 50)
    for line in sys.stdin.buffer:
        eye.obey(msgspec.json.decode(line, type=Order))


if __name__ == "__main__":
    main()
