"""
The engine's own /metrics in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
Does not use the client library, which takes 36 ms and 13 MiB: a canary must be small.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

from engine.serving.counters import Counters, Histogram
from engine.serving.scheduler import BatchScheduler

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "steadytok_reference_"


class MetricFamily(NamedTuple):
    """One metric; `values` are by the rest of the series name: suffix and labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: Mapping[str, float]


def render_exposition(scheduler: BatchScheduler, model_name: str, threads: int, sgemv: float | None) -> str:
    """Renders all current metrics, without those that cannot be read; `sgemv` is in bytes per second."""
    families = [
        *_collect_work(scheduler.counters),
        *_collect_latencies(scheduler.counters),
        *_collect_bandwidth(scheduler.counters, sgemv),
        *_collect_state(scheduler),
        *_collect_process(),
        _collect_info(scheduler, model_name, threads),
    ]
    return "".join(line for family in families for line in _format_family(family))


def _format_family(family: MetricFamily) -> Iterator[str]:
    yield f"# HELP {PREFIX}{family.name} {family.help}\n# TYPE {PREFIX}{family.name} {family.kind}\n"
    for suffix, value in family.values.items():
        yield f"{PREFIX}{family.name}{suffix} {value!r}\n"


def _build_counter(name: str, help_text: str, value: float) -> MetricFamily:
    return MetricFamily(name, "counter", help_text, {"": value})


def _build_gauge(name: str, help_text: str, value: float) -> MetricFamily:
    return MetricFamily(name, "gauge", help_text, {"": value})


def _build_labelled_counter(name: str, help_text: str, label: str, values: Mapping[str, float]) -> MetricFamily:
    return MetricFamily(name, "counter", help_text, {f'{{{label}="{key}"}}': value for key, value in values.items()})


def _build_histogram(name: str, help_text: str, histogram: Histogram) -> MetricFamily:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    counts = list(accumulate(histogram.counts))
    buckets = {f'_bucket{{le="{bound}"}}': count for bound, count in zip(bounds, counts, strict=True)}
    return MetricFamily(name, "histogram", help_text, {**buckets, "_sum": histogram.total, "_count": counts[-1]})


def _collect_work(counters: Counters) -> list[MetricFamily]:
    work = counters.work
    decode_help = (
        "Seconds in forward passes that made generated tokens, each request for itself: of requests that share "
        "a pass the times add up. No queueing, sampling, prefill or pacing."
    )
    phase_help = "Seconds by phase: passes over prompts, decode passes, work between passes, paced rests, idle."
    return [
        _build_counter("generated_tokens_total", "Tokens generated, counted as they are made.", work.generated_tokens),
        _build_counter("decode_seconds_total", decode_help, work.decode_seconds),
        _build_counter("decode_passes_total", "Decode passes; each makes one token for each request.", work.passes),
        _build_counter("prompt_tokens_total", "Prompt tokens prefilled; the last is decoded.", work.prompt_tokens),
        _build_counter("prompt_seconds_total", "Seconds in forward passes over prompts.", work.prompt_seconds),
        _build_labelled_counter("phase_seconds_total", phase_help, "phase", counters.get_phase_seconds()),
        _build_labelled_counter(
            "requests_total", "Finished requests by finish reason.", "finish_reason", dict(counters.finish_counts)
        ),
    ]


def _collect_latencies(counters: Counters) -> list[MetricFamily]:
    first_help = "From a request's arrival to its first token; queueing and prefill included."
    return [
        _build_histogram("time_to_first_token_seconds", first_help, counters.first_token),
        _build_histogram("inter_token_latency_seconds", "Between two tokens of one request.", counters.between_tokens),
        _build_histogram("request_seconds", "From a request's arrival to its last token.", counters.request_seconds),
    ]


def _collect_bandwidth(counters: Counters, sgemv: float | None) -> list[MetricFamily]:
    work, recent = counters.work, counters.get_bandwidth()
    streamed_help = "Bytes that decode passes had to read: the weights once each, and the KV cache of each request."
    efficiency_help = (
        "Memory bandwidth used by the last second of decoding, divided by sgemv_bytes_per_second, which "
        "matrix-vector products reached at start."
    )
    families = [_build_counter("streamed_bytes_total", streamed_help, work.streamed_bytes)]
    if work.generated_tokens:
        per_token = work.streamed_bytes / work.generated_tokens
        families.append(
            _build_gauge("streamed_bytes_per_token", "Mean of streamed_bytes_total over all tokens.", per_token)
        )
    if sgemv is not None:
        families.append(
            _build_gauge(
                "sgemv_bytes_per_second", "Bytes per second of sgemv over the weights, measured at start.", sgemv
            )
        )
    if sgemv is not None and recent is not None:
        families.append(_build_gauge("bandwidth_efficiency_ratio", efficiency_help, recent / sgemv))
    return families


def _collect_state(scheduler: BatchScheduler) -> list[MetricFamily]:
    duty_help = "Share of time allowed for work now; 1 without a lease."
    return [
        _build_gauge("requests_running", "Requests being worked on.", scheduler.running_count),
        _build_gauge("requests_waiting", "Requests waiting for their turn.", scheduler.waiting_count),
        _build_gauge("slots", "Requests that can be worked on at once.", scheduler.model.slots),
        _build_gauge("kv_cache_usage_ratio", "Share of the KV cache in use.", scheduler.cache_usage),
        _build_gauge("duty", duty_help, scheduler.pace.get_duty()),
        _build_gauge("weights_bytes", "Bytes of the weights.", scheduler.model.config.weights_bytes),
    ]


def _collect_process() -> list[MetricFamily]:
    cpu = _build_counter("cpu_seconds_total", "CPU seconds of this process, all threads.", time.process_time())
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except (OSError, ValueError, IndexError):
        return [cpu]  # no /proc: missing, never 0
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return [cpu, _build_gauge("resident_bytes", "Resident memory of this process.", resident)]


def _collect_info(scheduler: BatchScheduler, model_name: str, threads: int) -> MetricFamily:
    name = model_name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    labels = f'{{model="{name}",context="{scheduler.model.context}",threads="{threads}"}}'
    return MetricFamily("info", "gauge", "The model, its context and its threads; always 1.", {labels: 1})
