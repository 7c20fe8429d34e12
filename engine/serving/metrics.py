"""
The engine's own /metrics in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
Written by hand: the client library takes 36 ms and 13 MiB of a canary that is to be small.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

from engine.serving.counters import Histogram, Tally
from engine.serving.scheduler import Batch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "steadytok_reference_"


class Family(NamedTuple):
    """One metric: what stands behind its name in each line, and the values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: Mapping[str, float]


def exposition(batch: Batch, model_name: str, threads: int, sgemv: float | None) -> str:
    """All metrics now; what cannot be read is left out. `sgemv` in bytes per second."""
    families = [
        *_work(batch.tally),
        *_waits(batch.tally),
        *_bandwidth(batch.tally, sgemv),
        *_state(batch),
        *_process(),
        _info(batch, model_name, threads),
    ]
    return "".join(line for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {PREFIX}{family.name} {family.help}\n# TYPE {PREFIX}{family.name} {family.kind}\n"
    for behind, value in family.values.items():
        yield f"{PREFIX}{family.name}{behind} {value!r}\n"


def _counter(name: str, text: str, value: float) -> Family:
    return Family(name, "counter", text, {"": value})


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, {"": value})


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Family:
    return Family(name, "counter", text, {f'{{{label}="{key}"}}': value for key, value in values.items()})


def _histogram(name: str, text: str, histogram: Histogram) -> Family:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    counts = list(accumulate(histogram.counts))
    buckets = {f'_bucket{{le="{bound}"}}': count for bound, count in zip(bounds, counts, strict=True)}
    return Family(name, "histogram", text, {**buckets, "_sum": histogram.total, "_count": counts[-1]})


def _work(tally: Tally) -> list[Family]:
    work = tally.work
    decode_help = (
        "Seconds in forward passes that made generated tokens, each request for itself: of requests that share "
        "a pass the times add up. No queueing, sampling, prefill or pacing."
    )
    phase_help = "What the engine's time went to: passes over prompts, decode passes, all between them, rests, nothing."
    return [
        _counter("generated_tokens_total", "Tokens generated, counted as they are made.", work.generated_tokens),
        _counter("decode_seconds_total", decode_help, work.decode_seconds),
        _counter("decode_passes_total", "Decode passes; each makes one token for each request.", work.passes),
        _counter("prompt_tokens_total", "Prompt tokens prefilled; the last is decoded.", work.prompt_tokens),
        _counter("prompt_seconds_total", "Seconds in forward passes over prompts.", work.prompt_seconds),
        _labelled("phase_seconds_total", phase_help, "phase", tally.phases()),
        _labelled("requests_total", "Requests that ended, by why they did.", "finish_reason", dict(tally.ends)),
    ]


def _waits(tally: Tally) -> list[Family]:
    first_help = "From a request's arrival to its first token; queueing and prefill included."
    return [
        _histogram("time_to_first_token_seconds", first_help, tally.first_token),
        _histogram("inter_token_latency_seconds", "Between two tokens of one request.", tally.between_tokens),
        _histogram("request_seconds", "From a request's arrival to its last token.", tally.whole),
    ]


def _bandwidth(tally: Tally, sgemv: float | None) -> list[Family]:
    work, recent = tally.work, tally.bandwidth()
    streamed_help = "Bytes that decode passes had to read: the weights once each, and the KV cache of each request."
    efficiency_help = (
        "Bytes per second that the last second of decoding had to read, over sgemv_bytes_per_second; 1 is all that "
        "matrix-vector products reached at start."
    )
    found = [_counter("streamed_bytes_total", streamed_help, work.streamed_bytes)]
    if work.generated_tokens:
        per_token = work.streamed_bytes / work.generated_tokens
        found.append(_gauge("streamed_bytes_per_token", "Mean of streamed_bytes_total over all tokens.", per_token))
    if sgemv is not None:
        found.append(_gauge("sgemv_bytes_per_second", "What sgemv over the weights reached at start.", sgemv))
    if sgemv is not None and recent is not None:
        found.append(_gauge("bandwidth_efficiency_ratio", efficiency_help, recent / sgemv))
    return found


def _state(batch: Batch) -> list[Family]:
    duty_help = "Share of time allowed for work now; 1 without a lease."
    return [
        _gauge("requests_running", "Requests being worked on.", batch.running),
        _gauge("requests_waiting", "Requests waiting for their turn.", batch.waiting),
        _gauge("slots", "Requests that can be worked on at once.", batch.model.slots),
        _gauge("kv_cache_usage_ratio", "Share of the KV cache in use.", batch.cache_usage),
        _gauge("duty", duty_help, batch.pace.duty()),
        _gauge("weights_bytes", "Bytes of the weights.", batch.model.config.weights_bytes),
    ]


def _process() -> list[Family]:
    cpu = _counter("cpu_seconds_total", "CPU seconds of this process, all threads.", time.process_time())
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except (OSError, ValueError, IndexError):
        return [cpu]  # no /proc: missing, never 0
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return [cpu, _gauge("resident_bytes", "Resident memory of this process.", resident)]


def _info(batch: Batch, model_name: str, threads: int) -> Family:
    name = model_name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    labels = f'{{model="{name}",context="{batch.model.context}",threads="{threads}"}}'
    return Family("info", "gauge", "What runs; always 1.", {labels: 1})
