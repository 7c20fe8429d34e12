"""
One request at a time to an OpenAI-compatible engine, with the time of each piece of its answer.

Seen in the field: usage in a last event without choices (vLLM, SGLang), in every event, or never; first events with a
role or empty text only; several tokens in one event; reasoning in a field of its own; fields that are refused; a whole
answer where a stream was asked for (vllm#5708, vllm#5742; llama.cpp's `timings`; Ollama's /v1).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple

import aiohttp
import msgspec

from agent.enginebench.sse import Events, StreamError

Endpoint = Literal["completions", "chat"]
_PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
# What an engine may not know, and the run can do without; given up one after the other when a request is refused.
_EXTRAS: dict[str, Any] = {"ignore_eos": True, "stream_options": {"include_usage": True}}


class EngineError(Exception):
    """The engine cannot be asked, or refuses; the message is one sentence."""


class Order(NamedTuple):
    """What is asked, each time the same."""

    prompt: str
    tokens: int


class Piece(NamedTuple):
    """One event of a stream: when it came (monotonic), and whether there was text in it."""

    at: float
    text: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: seconds are monotonic; `told` is what the engine says it generated, None where it does not."""

    sent: float
    ended: float
    pieces: tuple[Piece, ...]
    told: int | None
    streamed: bool

    @property
    def counted(self) -> tuple[Piece, ...]:
        """The events that stand for tokens: all, if the engine's own count says so, else those with text."""
        with_text = tuple(piece for piece in self.pieces if piece.text)
        return self.pieces if len(self.pieces) == self.told or not with_text else with_text

    @property
    def tokens(self) -> int:
        """Tokens generated: what the engine says, else events."""
        return len(self.counted) if self.told is None else self.told

    @property
    def seconds(self) -> float:
        """From sending to the end."""
        return self.ended - self.sent

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token; None where the answer came in one piece."""
        return self.counted[0].at - self.sent if self.streamed and self.counted else None

    @property
    def speed(self) -> float | None:
        """Tokens per second while it decoded: after the first token, or of the whole where it came in one piece."""
        if not self.streamed:
            return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None
        counted = self.counted
        lasted = counted[-1].at - counted[0].at if counted else 0.0
        return (self.tokens - 1) / lasted if lasted > 0 and self.tokens > 1 else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens; of several that came in one event or one read, an even share each."""
        share = min(len(self.counted) / max(self.tokens, 1), 1.0)
        reads = [(at, len(list(pieces))) for at, pieces in groupby(self.counted, key=lambda piece: piece.at)]
        return [(at - before) / count * share for (before, _), (at, count) in pairwise(reads) for _ in range(count)]


class Engine:
    """An engine at a URL; `close` it."""

    def __init__(self, url: str, *, model: str = "", endpoint: Endpoint | None = None, key: str = "") -> None:
        """Without `model` and `endpoint`, those that the engine has are taken."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.endpoint: Endpoint = endpoint or "completions"
        self._settled = endpoint is not None
        self._extras = dict(_EXTRAS)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self, connections: int, patience: float) -> None:
        """Makes ready and asks for the model's name; `patience` is in seconds without a byte. Raises EngineError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(patience, 10.0), sock_read=patience)
        connector = aiohttp.TCPConnector(limit=connections)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=self._headers)
        if not self.model:
            self.model = await self._first_model()

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, order: Order) -> Answer:
        """One answer; raises EngineError. The first finds out what the engine takes."""
        while True:
            try:
                return await self._ask_once(order)
            except _RefusedError as refused:
                if not self._gives_up(refused):
                    raise EngineError(str(refused)) from None

    def _gives_up(self, refused: _RefusedError) -> bool:
        """Whether something less can be asked after this refusal."""
        if refused.status in (404, 405, 501) and not self._settled:
            self.endpoint, self._settled = "chat", True
            return True
        if refused.status in (400, 422) and self._extras:
            named = next((name for name in self._extras if name in str(refused)), next(iter(self._extras)))
            del self._extras[named]
            return True
        return False

    async def _first_model(self) -> str:
        assert self._session is not None
        try:
            async with self._session.get(f"{self.url}/v1/models") as answer:
                body = await answer.read()
                if answer.status in (401, 403):
                    raise EngineError(f"{self.url} wants a key: give it with --key-file")
                if answer.status != 200:
                    return ""  # an engine with one model may have no list of them
                return str(msgspec.json.decode(body)["data"][0]["id"])
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            if isinstance(error, msgspec.DecodeError):
                return ""
            raise EngineError(f"{self.url} cannot be reached: {_reason(error)}; is the engine up?") from error
        except (LookupError, TypeError):
            return ""  # a list without models

    async def _ask_once(self, order: Order) -> Answer:
        assert self._session is not None
        url = self.url + _PATHS[self.endpoint]
        sent = time.monotonic()
        try:
            async with self._session.post(url, json=self._body(order)) as answer:
                if answer.status != 200:
                    raise _RefusedError(url, answer.status, await answer.read())
                self._settled = True
                if answer.content_type != "text/event-stream":
                    return _whole(await answer.read(), sent)
                return await _streamed(answer, sent)
        except StreamError as error:
            raise EngineError(f"{url} sent {error}") from None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineError(f"{url} did not answer to its end: {_reason(error)}") from error

    def _body(self, order: Order) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": order.tokens, "temperature": 0, "stream": True, **self._extras}
        if self.model:
            body["model"] = self.model
        if self.endpoint == "chat":
            return {**body, "messages": [{"role": "user", "content": order.prompt}]}
        return {**body, "prompt": order.prompt}


class _RefusedError(Exception):
    """An answer with another status than 200."""

    def __init__(self, url: str, status: int, body: bytes) -> None:
        super().__init__(f"{url} answered {status}: {_message(body)}")
        self.status = status


async def _streamed(answer: aiohttp.ClientResponse, sent: float) -> Answer:
    events, pieces, told = Events(), [], None
    async for part in answer.content.iter_any():
        at = time.monotonic()
        for value in events.fed(part):
            told = _told(value, told)
            pieces += _pieces(value, at)
    for value in events.ended():
        told = _told(value, told)
        pieces += _pieces(value, time.monotonic())
    if not pieces:
        raise StreamError("a stream without any text")
    return Answer(sent, time.monotonic(), tuple(pieces), told, streamed=True)


def _whole(body: bytes, sent: float) -> Answer:
    ended = time.monotonic()
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise StreamError(f"neither events nor JSON: {body[:80].decode('utf-8', 'replace')!r}") from None
    told = _told(value, None)
    if told is None:
        raise StreamError("a whole answer without usage: neither its tokens nor their times can be told")
    return Answer(sent, ended, (), told, streamed=False)


def _told(value: Any, before: int | None) -> int | None:
    """The engine's own count: OpenAI's usage, or llama.cpp's timings; the last one holds."""
    _check(value)
    for outer, inner in (("usage", "completion_tokens"), ("timings", "predicted_n")):
        found = value.get(outer)
        if isinstance(found, Mapping) and isinstance(count := found.get(inner), int) and count > 0:
            return count
    return before


def _pieces(value: Any, at: float) -> list[Piece]:
    choices = value.get("choices")
    if not isinstance(choices, list):
        return []
    texts = [_text(choice) for choice in choices if isinstance(choice, Mapping)]
    return [Piece(at, bool(text)) for text in texts if text is not None]


def _text(choice: Mapping[str, Any]) -> str | None:
    """The text of a choice; None where it is an event of another kind: the role that opens a chat, a bare end."""
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


def _check(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise StreamError(f"an event that is no object: {str(value)[:80]!r}")
    if error := value.get("error"):
        raise StreamError(f"an error instead of the end: {_sentence(error)}")


def _message(body: bytes) -> str:
    """What a refusal says, in the shapes that engines have for it; else the beginning of its text."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return " ".join(body[:200].decode("utf-8", "replace").split()) or "nothing more"
    if isinstance(value, Mapping):
        return _sentence(value.get("error") or value.get("detail") or value.get("message") or value)
    return _sentence(value)


def _sentence(value: Any) -> str:
    text = value.get("message", value) if isinstance(value, Mapping) else value
    return " ".join(str(text).split())[:300]


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "nothing came for too long (--timeout)"
    return str(error) or type(error).__name__
