"""
The eye: a separate process for collectors that can block, so that the agent can kill and replace it.

`python -m agent.sampling.eye ROOT [CACHE]` reads one request a line from standard input, `{"collect": NAME, "own":
{…}}`, and writes one CollectResponse a line to standard output. Each collector has its own thread, so a stuck sensor
hides no others. The process ends when its input closes, so it cannot outlive the agent.
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
from agent.sampling.passes import CollectionResult, ThreadRunner
from collectors import Host, Metric, Note, Sample


class CollectRequest(msgspec.Struct, frozen=True):
    """A request for one pass; `own` holds the collector's keys of the configuration."""

    collect: str
    own: dict[str, Any] | None = None


class CollectResponse(msgspec.Struct, frozen=True):
    """A CollectionResult in transit: metrics once, samples as (index of metric, labels, value)."""

    collector: str
    seconds: float
    cpu_seconds: float
    metrics: tuple[tuple[str, str, str], ...]
    samples: tuple[tuple[int, tuple[tuple[str, str], ...], float | str], ...]
    notes: tuple[tuple[str, str], ...]
    error: str | None = None
    again: float | None = None


def encode_result(result: CollectionResult) -> CollectResponse:
    """Encodes a result for the pipe; NaN and the infinities, which JSON lacks, become text."""
    metric_indexes: dict[Metric, int] = {}
    samples = tuple(
        (
            metric_indexes.setdefault(s.metric, len(metric_indexes)),
            s.labels,
            s.value if abs(s.value) < float("inf") else str(s.value),
        )
        for s in result.samples
    )
    metrics = tuple((metric.name, metric.kind, metric.help) for metric in metric_indexes)
    return CollectResponse(
        result.collector,
        result.seconds,
        result.cpu_seconds,
        metrics,
        samples,
        notes=tuple(result.notes),
        error=result.error,
        again=result.again,
    )


def decode_result(response: CollectResponse, began: float) -> CollectionResult:
    """Decodes a response; `began` is when the agent sent the request."""
    metrics = [
        Metric(name, "counter" if kind == "counter" else "gauge", help_text)
        for name, kind, help_text in response.metrics
    ]
    samples = tuple(Sample(metrics[index], labels, float(value)) for index, labels, value in response.samples)
    notes = tuple(Note(*note) for note in response.notes)
    return CollectionResult(
        response.collector,
        began,
        response.seconds,
        response.cpu_seconds,
        samples,
        notes,
        error=response.error,
        again=response.again,
    )


class Eye:
    """The collectors of this process, with a thread for each."""

    def __init__(self, root: str, cache_dir: str | None = None) -> None:
        self._root = root
        self._cache_dir = cache_dir
        self._modules = plugins.load_collectors()
        self._runners: dict[str, ThreadRunner] = {}
        self._collectors: dict[str, tuple[Any, plugins.Collector]] = {}
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        # Responses get their own descriptor, so that text a library prints to stdout cannot mix with them.
        self._output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def handle_request(self, request: CollectRequest) -> None:
        """Starts the requested pass; its response is written when it ends."""
        try:
            collector = self._find_collector(request)
        except Exception as failure:  # a collector that cannot be loaded must not end the eye of the others
            error = f"{type(failure).__name__}: {failure}"
            return self._send_result(CollectionResult(request.collect, time.monotonic(), 0.0, 0.0, (), (), error))
        runner = self._runners.get(request.collect)
        if runner is None:
            runner = self._runners[request.collect] = ThreadRunner(
                request.collect, Host(self._root, self._cache_dir), self._send_result
            )
        if runner.busy_since is None:
            runner.start(collector, time.monotonic())
        return None

    def _find_collector(self, request: CollectRequest) -> plugins.Collector:
        cached = self._collectors.get(request.collect)
        if cached is None or cached[0] != request.own:
            if request.collect not in self._modules:  # a third party's, which is enabled since it was requested
                self._modules |= plugins.load_collectors({request.collect})
            module = self._modules[request.collect]
            config_type = plugins.find_config_types(self._modules)[request.collect]
            collector_config = (
                msgspec.convert(request.own, config_type)
                if config_type is not None and request.own is not None
                else None
            )
            cached = (
                request.own,
                plugins.bind_collector(module, request.collect, interval=None, deadline=None, config=collector_config),
            )
            self._collectors[request.collect] = cached
        return cached[1]

    def _send_result(self, result: CollectionResult) -> None:
        try:
            line = self._encoder.encode(encode_result(result)) + b"\n"
        except (UnicodeError, ValueError) as error:  # a label that cannot be encoded costs this pass, not the runner
            reason = f"the result cannot be sent: {error}"
            line = self._encoder.encode(encode_result(result._replace(samples=(), notes=(), error=reason))) + b"\n"
        with self._lock:
            self._output.write(line)
            self._output.flush()


def main() -> None:
    """Handles requests until the agent closes the pipe."""
    eye = Eye(*sys.argv[1:3])
    gc.freeze()  # imported modules stay, so the garbage collector need not walk them
    gc.set_threshold(50_000, 20, 50)
    for line in sys.stdin.buffer:
        eye.handle_request(msgspec.json.decode(line, type=CollectRequest))


if __name__ == "__main__":
    main()
