"""
Tokens, requests and cache of each engine, under the same metric names for all engines.

Requests /metrics of the bundled reference engine, vLLM, llama.cpp (--metrics) and SGLang (--enable-metrics) over HTTP.
Values that an engine does not expose are absent. All engines are requested at once, and none for longer than the pass
may take, so a dead engine hides no other. An engine with an open request receives no second one.
"""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from collectors import EngineAddress, Host, Reading, counter, gauge
from collectors._engine.dialects import DIALECTS, detect_kind, read_signal
from collectors._engine.exposition import is_exposition, parse_points

INTERVAL = 1.0
DEADLINE = 0.5

UP = gauge("steadytok_engine_up", "Whether the engine answered with metrics within 0.4 s: 1 if it did, 0 if not.")
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
METRICS = (UP, *_SIGNALS.values())
CONFIG_DOCUMENTED = False  # `engines:` at the top of the file is where engines are named
HINT_ABSENT = "name your engines under engines: in the configuration"

_TOTAL_TIMEOUT = 0.4  # seconds for all engines together, requested at once; the rest of the deadline is for parsing
_READ_TIMEOUT = 0.35  # seconds without a byte; less than _TOTAL_TIMEOUT, so that a failure is noted with its reason


class EngineEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine: its name in labels, and its URL."""

    name: str
    url: str
    kind: Literal["auto", "reference", "vllm", "llama.cpp", "sglang"] = "auto"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engines that are requested."""

    engines: tuple[EngineEndpoint, ...] = ()

    def find_faults(self) -> Iterator[tuple[str, str]]:
        """Yields a fault if the operator named engines here."""
        if self.engines:
            yield "engines", "expected the engines at the top of the file, under engines:"


def with_engines(config: Config, engines: Sequence[EngineAddress]) -> Config:
    """Returns the configuration that asks these engines."""
    targets = [msgspec.convert(engine._asdict(), EngineEndpoint) for engine in engines]
    return msgspec.structs.replace(config, engines=tuple(targets))


class _Request(threading.Thread):
    """One GET in progress; a daemon thread, so that an engine that drips its answer cannot keep the process alive."""

    def __init__(self, host: Host, url: str, condition: threading.Condition) -> None:
        super().__init__(name=f"ask {url}", daemon=True)
        self.answer: str | None = None
        self.done = False
        self._host = host
        self._url = url
        self._condition = condition

    def run(self) -> None:
        """Sends the GET, and notifies the waiting pass."""
        answer = None
        try:
            answer = self._host.get(self._url, timeout=_READ_TIMEOUT)
        except ValueError as error:  # a malformed URL
            self._host.note(self._url, str(error) or type(error).__name__)
        with self._condition:
            self.answer, self.done = answer, True
            self._condition.notify_all()


class _EngineState:
    """State from pass to pass, by URL: open requests, and detected kinds."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.open_requests: dict[str, _Request] = {}
        self.kinds: dict[str, str] = {}


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """Requests and converts the metrics of the configured engines."""
    state = host.get_state(_EngineState)
    answers = _request_all(host, state, [target.url for target in config.engines])
    for target in config.engines:
        yield from _collect_target(host, state, target, answers.get(target.url))


def _request_all(host: Host, state: _EngineState, urls: list[str]) -> dict[str, str | None]:
    """Returns the answers that came in time; an answer to an earlier pass's request is too old and is dropped."""
    state.open_requests = {url: request for url, request in state.open_requests.items() if not request.done}
    new_requests = {
        url: _Request(host, build_metrics_url(url), state.condition) for url in urls if url not in state.open_requests
    }
    for url in state.open_requests.keys() & set(urls):
        host.note(build_metrics_url(url), "has not answered the request of an earlier pass")
    state.open_requests.update(new_requests)
    for request in new_requests.values():
        request.start()
    with state.condition:
        state.condition.wait_for(lambda: all(request.done for request in new_requests.values()), timeout=_TOTAL_TIMEOUT)
        answers = {url: request.answer for url, request in new_requests.items() if request.done}
    for url in new_requests.keys() - answers.keys():
        host.note(build_metrics_url(url), f"no complete answer within {_TOTAL_TIMEOUT} s")
    return answers


def build_metrics_url(url: str) -> str:
    """Returns the URL of an engine's metrics: adds `/metrics` unless the operator wrote it, and keeps a query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return url  # the request to a malformed URL fails, and notes the reason
    path = parts.path.rstrip("/")
    return urllib.parse.urlunsplit(parts._replace(path=path if path.endswith("/metrics") else f"{path}/metrics"))


def _collect_target(host: Host, state: _EngineState, target: EngineEndpoint, text: str | None) -> Iterator[Reading]:
    url = build_metrics_url(target.url)
    if text is not None and not is_exposition(text):
        text = host.note(url, f"expected metrics, found {text[:40]!r}")
    kind = _resolve_kind(state, target, text or "")
    dialect = DIALECTS.get(kind)
    yield UP.sample(0 if text is None or dialect is None else 1, engine=target.name, kind=kind)
    if text is None:
        return
    if dialect is None or not dialect.matches(text):
        host.note(url, f"has metrics, but none of an engine of kind {kind}")
        return
    points_by_name = parse_points(text, dialect.names)
    for name in (name for name, series in points_by_name.items() if series is None):
        host.note(url, f"the value of {name} cannot be read")
    for signal, metric in _SIGNALS.items():
        reading = metric.sample(read_signal(dialect, signal, points_by_name), engine=target.name)
        if reading is not None:  # a value that the engine does not expose is no fault
            yield reading


def _resolve_kind(state: _EngineState, target: EngineEndpoint, text: str) -> str:
    """Returns the configured kind, or the detected one; an engine that stops answering keeps its kind."""
    if target.kind != "auto":
        return target.kind
    detected = detect_kind(text)
    if detected is not None:
        state.kinds[target.url] = detected
    return state.kinds.get(target.url, "auto")
