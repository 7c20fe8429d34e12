"""
Tokens, requests and cache of each engine, under the same metric names for all engines.

Requests /metrics of the bundled reference engine, vLLM, llama.cpp (--metrics) and SGLang (--enable-metrics) over HTTP.
Values that an engine does not expose are absent. All engines are requested at once, and none for longer than the pass
may take, so a dead engine hides no other. An engine with an open request receives no second one.
"""

from __future__ import annotations

import functools
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from collectors import EngineAddress, Host, HttpAnswer, Reading, Sample, counter, gauge
from collectors._engine.answers import ANSWERS, classify_answer
from collectors._engine.dialects import DIALECTS, detect_kind
from collectors._engine.exposition import BodyKind, classify_body, parse_points
from collectors._engine.requests import OpenRequests
from collectors._engine.signals import read_signal
from collectors._host.regular_files import OPEN_TO_OTHERS

INTERVAL = 1.0
DEADLINE = 0.5

UP = gauge(
    "steadytok_engine_up",
    "Whether the engine answered within 0.4 s: 1 if it did, also without metrics; 0 if nothing or no engine answered.",
)
ANSWER = gauge(
    "steadytok_engine_answer_info", f"What the engine answered to the request for its metrics: {', '.join(ANSWERS)}."
)
_SIGNALS = {
    "generated_tokens": counter(
        "steadytok_engine_generated_tokens_total",
        "Tokens generated; llama.cpp adds a request's tokens when it ends, the others while it runs.",
    ),
    "prompt_tokens": counter("steadytok_engine_prompt_tokens_total", "Tokens of prompts that were processed."),
    "decode_seconds": counter(
        "steadytok_engine_decode_seconds_total",
        "Time spent generating tokens, each request for itself: of requests that run at once the times add up.",
    ),
    "prompt_seconds": counter(
        "steadytok_engine_prompt_seconds_total",
        "Time spent on prompts, each request for itself; added when a prompt or its request ends.",
    ),
    "first_token_seconds": counter(
        "steadytok_engine_first_token_seconds_total",
        "Time from the arrival of requests to their first tokens, queueing included; of all requests together.",
    ),
    "first_tokens": counter("steadytok_engine_first_tokens_total", "Requests that got their first token."),
    "requests_running": gauge("steadytok_engine_requests_running", "Requests being worked on."),
    "requests_waiting": gauge("steadytok_engine_requests_waiting", "Requests in the engine's queue."),
    "kv_cache_usage": gauge(
        "steadytok_engine_kv_cache_usage_ratio", "Share of the KV cache in use; of several caches the fullest."
    ),
    "preemptions": counter(
        "steadytok_engine_preemptions_total", "Requests set back because the KV cache was full, to be worked on again."
    ),
    "duty": gauge("steadytok_engine_duty", "Seconds of decoding allowed per second, as the engine applies it."),
    "bandwidth_efficiency": gauge(
        "steadytok_engine_bandwidth_efficiency_ratio",
        "Memory bandwidth used by decoding, divided by the sgemv bandwidth measured at the engine's start.",
    ),
    "resident": gauge("steadytok_engine_resident_bytes", "Memory of the reference engine that is in RAM."),
    "cpu_seconds": counter("steadytok_engine_cpu_seconds_total", "CPU time of the reference engine."),
}
METRICS = (UP, ANSWER, *_SIGNALS.values())
CONFIG_DOCUMENTED = False  # `engines:` at the top of the file is where engines are named
HINT_ABSENT = "name your engines under engines: in the configuration"

_TOTAL_TIMEOUT = 0.4  # seconds for all engines together, requested at once; the rest of the deadline is for parsing
_READ_TIMEOUT = 0.35  # seconds without a byte; less than _TOTAL_TIMEOUT, so that a failure is noted with its reason


class EngineEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine: its name in labels, and its URL."""

    name: str
    url: str
    kind: Literal["auto", "reference", "vllm", "llama.cpp", "sglang"] = "auto"
    api_key_file: str | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engines that are requested."""

    engines: tuple[EngineEndpoint, ...] = ()

    def find_faults(self) -> Iterator[tuple[str, str]]:
        """Yields a fault if the operator named engines here."""
        if self.engines:
            yield "engines", "expected the engines at the top of the file, under engines:"


def with_engines(config: Config, engines: Sequence[EngineAddress]) -> Config:
    """Returns the configuration that asks these engines."""
    targets = [{**engine._asdict(), "api_key_file": engine.api_key_file} for engine in engines]
    return msgspec.structs.replace(config, engines=msgspec.convert(targets, tuple[EngineEndpoint, ...]))


class _EngineState:
    """State from pass to pass: open requests, and detected kinds by URL."""

    def __init__(self) -> None:
        self.open_requests: OpenRequests[HttpAnswer] = OpenRequests()
        self.kinds: dict[str, str] = {}


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """Requests and converts the metrics of the configured engines."""
    state = host.get_state(_EngineState)
    senders = {}
    for target in config.engines:
        key = None if target.api_key_file is None else _read_api_key(host, target.api_key_file)
        url = build_metrics_url(target.url)
        senders[_identify(target)] = functools.partial(host.request, url, timeout=_READ_TIMEOUT, api_key=key)
    answers, missing = state.open_requests.send(senders, _TOTAL_TIMEOUT)
    for target in config.engines:
        if (reason := missing.get(_identify(target))) is not None:
            host.note(build_metrics_url(target.url), reason)
        yield from _collect_target(host, state, target, answers.get(_identify(target)))


def _identify(target: EngineEndpoint) -> str:
    return f"{target.name} {target.url}"


def _read_api_key(host: Host, path: str) -> str | None:
    """Returns the key, or None with a note; no note contains any of the content."""
    text = host.read(path)
    if text is None:
        return None
    if os.stat(host.path(path)).st_mode & OPEN_TO_OTHERS:
        return host.note(path, "others may read or write the key; chmod 640 it, with root:steadytok for the service")
    if not (text.isascii() and text.isprintable()) or " " in text:  # a header has one line
        return host.note(path, "expected the key alone, in one line of ASCII")
    return text


def build_metrics_url(url: str) -> str:
    """Returns the URL of an engine's metrics: adds `/metrics` unless the operator wrote it, and keeps a query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return url  # the request to a malformed URL fails, and notes the reason
    path = parts.path.rstrip("/")
    return urllib.parse.urlunsplit(parts._replace(path=path if path.endswith("/metrics") else f"{path}/metrics"))


def _collect_target(
    host: Host, state: _EngineState, target: EngineEndpoint, answer: HttpAnswer | None
) -> Iterator[Reading]:
    text = answer.text if answer is not None and answer.status == 200 else ""
    is_exposition = classify_body(text) is BodyKind.SAMPLES
    kind = _resolve_kind(state, target, text if is_exposition else "")
    names = DIALECTS[kind].find_names(text) if is_exposition and kind in DIALECTS else {}
    word = (
        "none" if answer is None else "metrics" if names else classify_answer(answer.status, answer.text, answer.fault)
    )
    yield UP.sample(ANSWERS[word].alive, engine=target.name, kind=kind)
    yield ANSWER.sample(1, engine=target.name, answer=word)
    url = build_metrics_url(target.url)
    if answer is not None and word != "metrics":
        host.note(url, f"HTTP {answer.status}, answer {word}" if answer.status else f"its certificate is {word}")
    points_by_name = parse_points(text, names)
    for signal, metric in _SIGNALS.items() if names else ():
        value, fault = read_signal(DIALECTS[kind], signal, points_by_name)
        if fault is not None:
            host.note(url, fault)
        elif value is not None:  # a value that the engine does not expose is no fault
            yield metric.sample(value, engine=target.name)


def _resolve_kind(state: _EngineState, target: EngineEndpoint, text: str) -> str:
    """Returns the configured kind, or the detected one; an engine that stops answering keeps its kind."""
    if target.kind != "auto":
        return target.kind
    detected = detect_kind(text)
    if detected is not None:
        state.kinds[target.url] = detected
    return state.kinds.get(target.url, "auto")


def explain(samples: Sequence[Sample]) -> Iterator[str]:
    """Yields what to do about each engine that gives no metrics."""
    for sample in samples:
        labels = dict(sample.labels)
        if sample.metric is ANSWER and (advice := ANSWERS[labels["answer"]].advice):
            yield f"{labels['engine']} {advice}"
