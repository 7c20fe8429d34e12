"""
Maps each engine's metrics, by exact name, to common signals.

A prefix would match too much (`vllm:num_requests_waiting_by_reason`). Of several names for a signal the first that the
engine exposes is taken: engines have renamed their metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from collectors._engine.exposition import Point, Points

Signal = str
"""A common name: the part of a metric after `steadytok_engine_`, without unit and `_total`."""


class MetricSource(NamedTuple):
    """One metric of an engine, and how its series become one number."""

    name: str
    label_values: Mapping[str, tuple[str, ...]] = {}  # required labels, each with its accepted values
    largest: bool = False  # else their sum: a ratio needs the largest, tokens the sum


class Dialect(NamedTuple):
    """The metrics of one kind of engine; `ranks` are labels whose series repeat each other and must not be added up."""

    prefix: str
    sources: Mapping[Signal, tuple[MetricSource, ...]]
    ranks: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Every metric that may be read."""
        return frozenset(source.name for sources in self.sources.values() for source in sources)

    def matches(self, text: str) -> bool:
        """Returns True where a metric of this exposition has the prefix."""
        return text.startswith(self.prefix) or f"\n{self.prefix}" in text


# https://docs.vllm.ai/en/latest/usage/metrics/ ; series differ by `engine` (data parallel) and `model_name`.
# The sum of inter-token latencies grows with every token. Decode time grows when a request ends, so it comes last.
_VLLM = Dialect(
    "vllm:",
    {
        "generated_tokens": (MetricSource("vllm:generation_tokens_total"),),
        "prompt_tokens": (MetricSource("vllm:prompt_tokens_total"),),
        "decode_seconds": (
            MetricSource("vllm:inter_token_latency_seconds_sum"),
            MetricSource("vllm:time_per_output_token_seconds_sum"),
            MetricSource("vllm:request_decode_time_seconds_sum"),
        ),
        "prompt_seconds": (MetricSource("vllm:request_prefill_time_seconds_sum"),),
        "first_token_seconds": (MetricSource("vllm:time_to_first_token_seconds_sum"),),
        "first_tokens": (MetricSource("vllm:time_to_first_token_seconds_count"),),
        "requests_running": (MetricSource("vllm:num_requests_running"),),
        "requests_waiting": (MetricSource("vllm:num_requests_waiting"),),
        "kv_cache_usage": (
            MetricSource("vllm:kv_cache_usage_perc", largest=True),
            MetricSource("vllm:gpu_cache_usage_perc", largest=True),
        ),
        "preemptions": (MetricSource("vllm:num_preemptions_total"),),
    },
)

# https://docs.sglang.ai/references/production_metrics.html ; generation_tokens_total grows only when a request ends.
_SGLANG = Dialect(
    "sglang:",
    {
        "generated_tokens": (
            MetricSource("sglang:realtime_tokens_total", label_values={"mode": ("decode",)}),
            MetricSource("sglang:generation_tokens_total"),
        ),
        "prompt_tokens": (
            MetricSource("sglang:realtime_tokens_total", label_values={"mode": ("prefill_compute", "prefill_cache")}),
            MetricSource("sglang:prompt_tokens_total"),
        ),
        "decode_seconds": (MetricSource("sglang:inter_token_latency_seconds_sum"),),
        "first_token_seconds": (MetricSource("sglang:time_to_first_token_seconds_sum"),),
        "first_tokens": (MetricSource("sglang:time_to_first_token_seconds_count"),),
        "requests_running": (MetricSource("sglang:num_running_reqs"),),
        "requests_waiting": (MetricSource("sglang:num_queue_reqs"),),
        "kv_cache_usage": (MetricSource("sglang:token_usage", largest=True),),
        "preemptions": (MetricSource("sglang:num_retracted_requests_total"),),
    },
    ranks=frozenset({"tp_rank", "pp_rank", "moe_ep_rank"}),
)

# https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md ; needs --metrics. Its gauges of tokens per
# second restart at each scrape, so only counters are read; newer versions have no KV metric.
_LLAMA_CPP = Dialect(
    "llamacpp:",
    {
        "generated_tokens": (MetricSource("llamacpp:tokens_predicted_total"),),
        "prompt_tokens": (MetricSource("llamacpp:prompt_tokens_total"),),
        "decode_seconds": (MetricSource("llamacpp:tokens_predicted_seconds_total"),),
        "prompt_seconds": (MetricSource("llamacpp:prompt_seconds_total"),),
        "requests_running": (MetricSource("llamacpp:requests_processing"),),
        "requests_waiting": (MetricSource("llamacpp:requests_deferred"),),
        "kv_cache_usage": (MetricSource("llamacpp:kv_cache_usage_ratio", largest=True),),
    },
)

_REFERENCE = Dialect(
    "steadytok_reference_",
    {
        "generated_tokens": (MetricSource("steadytok_reference_generated_tokens_total"),),
        "prompt_tokens": (MetricSource("steadytok_reference_prompt_tokens_total"),),
        "decode_seconds": (MetricSource("steadytok_reference_decode_seconds_total"),),
        "prompt_seconds": (MetricSource("steadytok_reference_prompt_seconds_total"),),
        "first_token_seconds": (MetricSource("steadytok_reference_time_to_first_token_seconds_sum"),),
        "first_tokens": (MetricSource("steadytok_reference_time_to_first_token_seconds_count"),),
        "requests_running": (MetricSource("steadytok_reference_requests_running"),),
        "requests_waiting": (MetricSource("steadytok_reference_requests_waiting"),),
        "kv_cache_usage": (MetricSource("steadytok_reference_kv_cache_usage_ratio", largest=True),),
        "duty": (MetricSource("steadytok_reference_duty", largest=True),),
        "bandwidth_efficiency": (MetricSource("steadytok_reference_bandwidth_efficiency_ratio", largest=True),),
        "resident": (MetricSource("steadytok_reference_resident_bytes"),),
        "cpu_seconds": (MetricSource("steadytok_reference_cpu_seconds_total"),),
    },
)

DIALECTS: Mapping[str, Dialect] = {
    "reference": _REFERENCE,
    "vllm": _VLLM,
    "llama.cpp": _LLAMA_CPP,
    "sglang": _SGLANG,
}


def detect_kind(text: str) -> str | None:
    """Returns the kind of engine whose prefix a metric of this exposition has, or None."""
    return next((kind for kind, dialect in DIALECTS.items() if dialect.matches(text)), None)


def read_signal(dialect: Dialect, signal: Signal, points: Points) -> float | None:
    """Returns the value of a signal; None where this engine does not expose it."""
    for source in dialect.sources.get(signal, ()):
        if source.name not in points:
            continue
        series = points[source.name]
        selected = [point for point in series or () if _is_selected(point, source)]
        if selected:
            return max(point.value for point in selected) if source.largest else _sum_replicas(selected, dialect)
        if series is None:
            return None  # the metric exists but is unreadable; another name might count something else
    return None


def _is_selected(point: Point, source: MetricSource) -> bool:
    return all(point.labels.get(label) in values for label, values in source.label_values.items())


def _sum_replicas(points: list[Point], dialect: Dialect) -> float:
    """Returns the sum over replicas; ranks of one replica count the same tokens, so only the highest counts."""
    replicas: dict[frozenset[tuple[str, str]], float] = {}
    for point in points:
        replica = frozenset(pair for pair in point.labels.items() if pair[0] not in dialect.ranks)
        replicas[replica] = max(point.value, replicas.get(replica, point.value))
    return sum(replicas.values())
