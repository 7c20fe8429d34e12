"""
The engine's own /metrics in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import time
from typing import Literal, NamedTuple

from engine.generation import Generation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "steadytok_reference_"


class Line(NamedTuple):
    """One metric with its value."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float
    labels: str = ""


def exposition(generation: Generation, model_name: str, threads: int) -> str:
    """All metrics now; what cannot be read is left out."""
    lines = [*_work(generation), *_state(generation), *_process(), _info(generation, model_name, threads)]
    return "".join(
        f"# HELP {PREFIX}{line.name} {line.help}\n"
        f"# TYPE {PREFIX}{line.name} {line.kind}\n"
        f"{PREFIX}{line.name}{line.labels} {line.value!r}\n"
        for line in lines
    )


def _work(generation: Generation) -> list[Line]:
    work = generation.work
    decode_help = "Seconds in forward passes that each made one generated token; no queueing, sampling or pacing."
    return [
        Line("generated_tokens_total", "counter", "Tokens generated, counted as they are made.", work.generated_tokens),
        Line("decode_seconds_total", "counter", decode_help, work.decode_seconds),
        Line("prompt_tokens_total", "counter", "Prompt tokens prefilled; the last is decoded.", work.prompt_tokens),
        Line("prompt_seconds_total", "counter", "Seconds in forward passes over prompts.", work.prompt_seconds),
    ]


def _state(generation: Generation) -> list[Line]:
    turns = generation.turns
    duty_help = "Share of time allowed for forward passes now; 1 without a lease."
    return [
        Line("requests_running", "gauge", "Requests being worked on.", turns.running),
        Line("requests_waiting", "gauge", "Requests waiting for their turn.", turns.waiting),
        Line("kv_cache_usage_ratio", "gauge", "Share of the KV cache in use.", generation.cache_usage),
        Line("duty", "gauge", duty_help, generation.pace.duty()),
        Line("weights_bytes", "gauge", "Bytes of the weights.", generation.model.config.weights_bytes),
    ]


def _process() -> list[Line]:
    cpu = Line("cpu_seconds_total", "counter", "CPU seconds of this process, all threads.", time.process_time())
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except (OSError, ValueError, IndexError):
        return [cpu]  # no /proc: missing, never 0
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return [cpu, Line("resident_bytes", "gauge", "Resident memory of this process.", resident)]


def _info(generation: Generation, model_name: str, threads: int) -> Line:
    labels = f'{{model="{model_name}",context="{generation.model.context}",threads="{threads}"}}'
    return Line("info", "gauge", "What runs; always 1.", 1, labels)
