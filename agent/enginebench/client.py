"""
Sends requests to an OpenAI-compatible engine and times each piece of the answer.

Engines differ in the field: usage comes in a last event without choices (vLLM, SGLang), in every event, or never. First
events may hold only a role or empty text, and one event several tokens. Reasoning has a field of its own. Some fields
are refused, and a stream may come as a whole answer (vllm#5708, vllm#5742; llama.cpp's `timings`; Ollama's /v1).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple

import aiohttp

from agent.enginebench.sse import EventParser, StreamError
from agent.runtime.errors import describe_error
from agent.runtime.http_client import HttpClient, decode_json
from collectors import HttpAnswer

MAX_ANSWER_BYTES = 512 << 20  # of one stream: --tokens may be a million, and an event has some 300 bytes
Endpoint = Literal["completions", "chat"]
_PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
# Fields that an engine may not know and the run can do without; dropped one by one after refusals.
_OPTIONAL_FIELDS: dict[str, Any] = {"ignore_eos": True, "stream_options": {"include_usage": True}}


class EngineError(Exception):
    """The engine is unreachable or refuses; the message is one sentence."""


class BenchRequest(NamedTuple):
    """The request that is repeated."""

    prompt: str
    tokens: int


class StreamEvent(NamedTuple):
    """One event of a stream: its arrival (monotonic seconds), and whether it held text."""

    at: float
    has_text: bool


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer; times are monotonic seconds. `usage_tokens` is the engine's own count, None without one."""

    sent_at: float
    ended_at: float
    events: tuple[StreamEvent, ...]
    usage_tokens: int | None
    is_streamed: bool

    @property
    def token_events(self) -> tuple[StreamEvent, ...]:
        """The events that stand for tokens: all if their number is the engine's count, else the events with text."""
        with_text = tuple(event for event in self.events if event.has_text)
        return self.events if len(self.events) == self.usage_tokens or not with_text else with_text

    @property
    def tokens(self) -> int:
        """Tokens generated: the engine's count, else the number of events."""
        return len(self.token_events) if self.usage_tokens is None else self.usage_tokens

    @property
    def seconds(self) -> float:
        """Seconds from sending to the end."""
        return self.ended_at - self.sent_at

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token; None for an answer in one piece."""
        return self.token_events[0].at - self.sent_at if self.is_streamed and self.token_events else None

    @property
    def speed(self) -> float | None:
        """Tokens per second after the first token, or over the whole time for an answer in one piece."""
        if not self.is_streamed:
            return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None
        events = self.token_events
        duration = events[-1].at - events[0].at if events else 0.0
        return (self.tokens - 1) / duration if duration > 0 and self.tokens > 1 else None

    @property
    def token_gaps(self) -> list[float]:
        """Seconds between tokens; tokens of one event or one read share its time evenly."""
        share = min(len(self.token_events) / max(self.tokens, 1), 1.0)
        reads = [(at, len(list(events))) for at, events in groupby(self.token_events, key=lambda event: event.at)]
        return [(at - previous) / count * share for (previous, _), (at, count) in pairwise(reads) for _ in range(count)]


class EngineClient:
    """A client of the engine at a URL; must be closed."""

    def __init__(self, url: str, *, model: str = "", endpoint: Endpoint | None = None, key: str = "") -> None:
        """Without `model` and `endpoint`, the client uses those that the engine offers."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.endpoint: Endpoint = endpoint or "completions"
        self._endpoint_is_settled = endpoint is not None
        self._optional_fields = dict(_OPTIONAL_FIELDS)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: HttpClient | None = None
        self._read_timeout = 0.0

    async def connect(self, connections: int, read_timeout: float) -> None:
        """Opens a session and finds the model; `read_timeout` is in seconds without a byte. Raises EngineError."""
        self._read_timeout = read_timeout
        self._client = HttpClient(
            limit=MAX_ANSWER_BYTES, timeout=read_timeout, headers=self._headers, connections=connections
        )
        if not self.model:
            self.model = await self._find_first_model()

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()

    async def complete(self, request: BenchRequest) -> Completion:
        """Sends a request and returns the answer. The first finds out what the engine accepts. Raises EngineError."""
        while True:
            try:
                return await self._complete_once(request)
            except _StatusError as refusal:
                if not self._drop_feature(refusal):
                    raise EngineError(str(refusal)) from None

    def _drop_feature(self, refusal: _StatusError) -> bool:
        """Drops a field or an endpoint after a refusal; False when nothing is left to drop."""
        if refusal.status in (404, 405, 501) and not self._endpoint_is_settled:
            self.endpoint, self._endpoint_is_settled = "chat", True
            return True
        if refusal.status in (400, 422) and self._optional_fields:
            field_name = next(
                (name for name in self._optional_fields if name in str(refusal)), next(iter(self._optional_fields))
            )
            del self._optional_fields[field_name]
            return True
        return False

    async def _find_first_model(self) -> str:
        assert self._client is not None
        try:
            answer = await self._client.exchange("GET", f"{self.url}/v1/models")
        except (OSError, ValueError) as error:
            raise EngineError(f"{self.url} cannot be reached: {_describe_failure(error)}; is the engine up?") from error
        if answer.status in (401, 403):
            raise EngineError(f"{self.url} wants a key: give it with --key-file")
        try:
            # An engine with one model may have no list of models.
            return str(decode_json(answer.body)["data"][0]["id"]) if answer.status == 200 else ""
        except (ValueError, LookupError, TypeError):
            return ""  # a list without models

    async def _complete_once(self, request: BenchRequest) -> Completion:
        assert self._client is not None
        url = self.url + _PATHS[self.endpoint]
        sent_at = time.monotonic()
        try:
            body, timeout = self._build_body(request), self._build_timeout(request)
            async with self._client.open("POST", url, json=body, timeout=timeout) as response:
                if response.status != 200:
                    raise _StatusError(url, await self._client.read_answer(response))
                self._endpoint_is_settled = True
                if response.content_type != "text/event-stream":
                    return _parse_whole((await self._client.read_answer(response)).body, sent_at)
                return await _read_stream(self._client.iter_parts(response), sent_at)
        except StreamError as error:
            raise EngineError(f"{url}: {error}") from None
        except (OSError, ValueError) as error:
            raise EngineError(f"{url} did not answer to its end: {_describe_failure(error)}") from error

    def _build_timeout(self, request: BenchRequest) -> aiohttp.ClientTimeout:
        """Returns the greatest pause, and a deadline for the whole answer: that pause before each of its tokens."""
        return aiohttp.ClientTimeout(
            total=self._read_timeout * (request.tokens + 1),
            sock_connect=min(self._read_timeout, 10.0),
            sock_read=self._read_timeout,
        )

    def _build_body(self, request: BenchRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": request.tokens, "temperature": 0, "stream": True, **self._optional_fields}
        if self.model:
            body["model"] = self.model
        if self.endpoint == "chat":
            return {**body, "messages": [{"role": "user", "content": request.prompt}]}
        return {**body, "prompt": request.prompt}


class _StatusError(Exception):
    """The engine answered with another status than 200."""

    def __init__(self, url: str, answer: HttpAnswer) -> None:
        location = answer.headers.get("location")
        reason = f"it redirects to {location[:200]}; give that URL" if location else _parse_refusal(answer.body)
        super().__init__(f"{url} answered {answer.status}: {reason}")
        self.status = answer.status


async def _read_stream(chunks: AsyncIterator[bytes], sent_at: float) -> Completion:
    parser, stream_events, token_count = EventParser(), [], None
    async for chunk in chunks:
        at = time.monotonic()
        for value in parser.feed(chunk):
            token_count = _parse_token_count(value, token_count)
            stream_events += _parse_events(value, at)
    for value in parser.finish():
        token_count = _parse_token_count(value, token_count)
        stream_events += _parse_events(value, time.monotonic())
    if not stream_events:
        raise StreamError("the stream has no text")
    return Completion(sent_at, time.monotonic(), tuple(stream_events), token_count, is_streamed=True)


def _parse_whole(body: bytes, sent_at: float) -> Completion:
    ended_at = time.monotonic()
    try:
        value = decode_json(body)
    except ValueError:
        raise StreamError(f"the answer is neither events nor JSON: {body[:80].decode('utf-8', 'replace')!r}") from None
    token_count = _parse_token_count(value, None)
    if token_count is None:
        raise StreamError("the answer has no usage, so the number of its tokens and their times are unknown")
    return Completion(sent_at, ended_at, (), token_count, is_streamed=False)


def _parse_token_count(value: Any, previous: int | None) -> int | None:
    """Returns the engine's own count (OpenAI's usage or llama.cpp's timings); the last one counts."""
    _check_event(value)
    for outer, inner in (("usage", "completion_tokens"), ("timings", "predicted_n")):
        section = value.get(outer)
        if isinstance(section, Mapping) and isinstance(count := section.get(inner), int) and count > 0:
            return count
    return previous


def _parse_events(value: Any, at: float) -> list[StreamEvent]:
    choices = value.get("choices")
    if not isinstance(choices, list):
        return []
    texts = [_parse_text(choice) for choice in choices if isinstance(choice, Mapping)]
    return [StreamEvent(at, bool(text)) for text in texts if text is not None]


def _parse_text(choice: Mapping[str, Any]) -> str | None:
    """Returns the text of a choice; None for other events, such as the role that opens a chat or a bare end."""
    if "text" in choice:
        text = choice["text"]
        return None if not text and choice.get("finish_reason") == "stop" else str(text or "")
    delta = choice.get("delta")
    if not isinstance(delta, Mapping):
        return None
    fields = [delta.get(name) for name in ("content", "reasoning_content", "reasoning")]
    text = next((field for field in fields if field), None)
    if text or delta.get("tool_calls"):
        return str(text or "call")
    if "role" in delta or choice.get("finish_reason") or all(field is None for field in fields):
        return None
    return ""


def _check_event(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise StreamError(f"an event is not an object: {str(value)[:80]!r}")
    if error := value.get("error"):
        raise StreamError(f"the stream ended with an error: {_format_message(error)}")


def _parse_refusal(body: bytes) -> str:
    """Returns the message of a refusal in the shapes that engines use, or the beginning of its text."""
    try:
        value = decode_json(body)
    except ValueError:
        return " ".join(body[:200].decode("utf-8", "replace").split()) or "nothing more"
    if isinstance(value, Mapping):
        return _format_message(value.get("error") or value.get("detail") or value.get("message") or value)
    return _format_message(value)


def _format_message(value: Any) -> str:
    text = value.get("message", value) if isinstance(value, Mapping) else value
    return " ".join(str(text).split())[:300]


def _describe_failure(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no byte within --timeout"
    return describe_error(error)
