"""
Maps each engine's metrics, by exact name, to common signals.

A prefix would match too much (`vllm:num_requests_waiting_by_reason`). Of several names for a signal the first that the
engine exposes is taken: engines have renamed their metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from collectors._engine.domains import Signal


class MetricSource(NamedTuple):
    """One metric of an engine, and how its series become one number."""

    name: str
    label_values: Mapping[str, tuple[str, ...]] = {}  # required labels, each with its accepted values
    largest: bool = False  # else their sum: a ratio needs the largest, tokens the sum
    total_label: str | None = None  # without it a series is the total of those that have it


class Dialect(NamedTuple):
    """
    The metrics of one kind of engine, and what its labels do to a sum.

    Series that differ by a label of `ranks`, or by another `…_rank` but `dp_rank`, repeat each other. Those that differ
    by a label of `replicas` add up, as do those that differ by any other label. A series without a label of `shards` is
    the total of those that have it, as a proxy in front of the replicas exposes it.
    """

    prefix: str
    sources: Mapping[Signal, tuple[MetricSource, ...]]
    ranks: frozenset[str] = frozenset()
    replicas: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Every metric that may be read."""
        return frozenset(source.name for sources in self.sources.values() for source in sources)

    def find_names(self, text: str) -> dict[str, str]:
        """
        Returns this exposition's names of the metrics, each with its documented name; empty for another engine's.

        Exporters without colons in names put `_` there, and Ray adds its own prefix: https://github.com/ray-project/ray/issues/59071
        Only one spelling is read, because a gateway that exposes two counts the same tokens twice.
        """
        if text.startswith(self.prefix) or f"\n{self.prefix}" in text:
            return {name: name for name in self.names}
        for names in self._iter_respelled_names():
            if any(_has_sample(text, name) for name in names):
                return names
        return {}

    def _iter_respelled_names(self) -> Iterator[dict[str, str]]:
        if self.prefix.endswith(":"):
            for prefix in (f"{self.prefix[:-1]}_", f"ray_{self.prefix[:-1]}_"):
                yield {prefix + name.removeprefix(self.prefix): name for name in self.names}


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
    replicas=frozenset({"engine", "model_name"}),
    shards=frozenset({"engine"}),
)

# https://docs.sglang.ai/references/production_metrics.html ; generation_tokens_total grows only when a request ends.
# With --enable-priority-scheduling a scheduler's series without a priority is the total of those with one. Of requests'
# series (tokens and seconds) it is a part: the requests that gave no priority.
_SGLANG = Dialect(
    "sglang:",
    {
        "generated_tokens": (
            MetricSource("sglang:realtime_tokens_total", {"mode": ("decode",)}, total_label="priority"),
            MetricSource("sglang:generation_tokens_total"),
        ),
        "prompt_tokens": (
            MetricSource(
                "sglang:realtime_tokens_total", {"mode": ("prefill_compute", "prefill_cache")}, total_label="priority"
            ),
            MetricSource("sglang:prompt_tokens_total"),
        ),
        "decode_seconds": (MetricSource("sglang:inter_token_latency_seconds_sum"),),
        "first_token_seconds": (MetricSource("sglang:time_to_first_token_seconds_sum"),),
        "first_tokens": (MetricSource("sglang:time_to_first_token_seconds_count"),),
        "requests_running": (MetricSource("sglang:num_running_reqs", total_label="priority"),),
        "requests_waiting": (MetricSource("sglang:num_queue_reqs", total_label="priority"),),
        "kv_cache_usage": (MetricSource("sglang:token_usage", largest=True),),
        "preemptions": (MetricSource("sglang:num_retracted_requests_total", total_label="priority"),),
    },
    ranks=frozenset({"tp_rank", "pp_rank", "moe_ep_rank"}),
    replicas=frozenset(
        {"dp_rank", "model_name", "engine_type", "is_streaming", "mode", "priority", "worker_addr", "cache_source"}
    ),
    shards=frozenset({"dp_rank"}),
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


def _has_sample(text: str, name: str) -> bool:
    return text.startswith((f"{name}{{", f"{name} ")) or f"\n{name}{{" in text or f"\n{name} " in text


def detect_kind(text: str) -> str | None:
    """Returns the kind of engine that has metrics in this exposition, or None."""
    return next((kind for kind, dialect in DIALECTS.items() if dialect.find_names(text)), None)
