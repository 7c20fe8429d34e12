"""
Holds the values that each signal can have.

A value outside is an engine's fault, and missing is truer than wrong: vLLM on Ascend exposed a KV cache that was -39 %
full (https://github.com/vllm-project/vllm-ascend/issues/10048).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Signal = str
"""A common name: the part of a metric after `steadytok_engine_`, without unit and `_total`."""


class Domain(NamedTuple):
    """The smallest and the largest value that can be right."""

    smallest: float
    largest: float


_EXACT = Domain(0, 2**53)  # from here on a float no longer counts single tokens, so that no rate can be right
_REQUESTS = Domain(0, 1e6)  # far more than any queue has, far fewer than the seconds of a timestamp
_RATIO = Domain(0, 1)  # a percentage would be read as a hundredfold

DOMAINS: Mapping[Signal, Domain] = {
    "generated_tokens": _EXACT,
    "prompt_tokens": _EXACT,
    "decode_seconds": _EXACT,
    "prompt_seconds": _EXACT,
    "first_token_seconds": _EXACT,
    "first_tokens": _EXACT,
    "requests_running": _REQUESTS,
    "requests_waiting": _REQUESTS,
    "kv_cache_usage": _RATIO,
    "preemptions": _EXACT,
    "duty": _RATIO,
    "bandwidth_efficiency": Domain(0, 10),  # beyond 1 where other work disturbed the measurement at the start
    "resident": _EXACT,
    "cpu_seconds": _EXACT,
}


def explain_refusal(signal: Signal, value: float) -> str | None:
    """Returns why a value cannot be right, or None where it can; NaN is in no domain."""
    domain = DOMAINS[signal]
    if domain.smallest <= value <= domain.largest:
        return None
    return f"is {value:g}, expected {domain.smallest:g} to {domain.largest:g}"
