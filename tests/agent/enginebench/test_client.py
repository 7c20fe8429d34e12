"""The client of OpenAI-compatible engines: its requests and how it reads answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agent.enginebench.client import BenchRequest, Completion, EngineClient, EngineError, StreamEvent
from tests.agent.enginebench.peers import Behave, Peer, Reply, data

ORDER = BenchRequest("Hello", 5)
Start = Callable[..., Peer]


def ask(peer: Peer, times: int = 1, **more: Any) -> tuple[EngineClient, list[Completion]]:
    """Sends requests in a row and returns the answers."""

    async def all_of_them() -> tuple[EngineClient, list[Completion]]:
        engine = EngineClient(peer.url, **more)
        try:
            await engine.connect(1, 5.0)
            return engine, [await engine.complete(ORDER) for _ in range(times)]
        finally:
            await engine.close()

    return asyncio.run(all_of_them())


def text(*texts: str, **more: Any) -> list[bytes]:
    """Encodes events of /v1/completions."""
    return [data({"choices": [{"index": 0, "text": each, "finish_reason": None}], **more}) for each in texts]


def chat(*deltas: Any, finish: str | None = None) -> list[bytes]:
    """Encodes events of /v1/chat/completions."""
    return [data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}) for delta in deltas]


def usage(tokens: int, **more: Any) -> bytes:
    """Encodes a last event with usage."""
    return data({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": tokens}, **more})


DONE = b"data: [DONE]\n\n"


def completions(events: Sequence[bytes]) -> Behave:
    """Returns an engine that answers /v1/completions with the given events."""
    return lambda path, _: Reply(events, pause=0.03) if path == "/v1/completions" else Reply([b"no"], 404, "text/plain")


@pytest.mark.parametrize(
    ("events", "tokens", "events_with_text", "usage_tokens"),
    [
        pytest.param([*text("", "a", "b", "c"), usage(3), DONE], 3, 3, 3, id="vLLM: an empty event first"),
        pytest.param([*text("a", "b", usage={"completion_tokens": 7}), DONE], 7, 2, 7, id="usage in every event"),
        pytest.param([b": ping\n\n", *text("a", "b", "c"), DONE], 3, 3, None, id="no usage, signs of life"),
        pytest.param([*text("abc", "def", usage=None), usage(6), DONE], 6, 2, 6, id="several tokens in an event"),
        pytest.param([*text("a", "", "b"), usage(3), DONE], 3, 3, 3, id="tokens that complete no character"),
        pytest.param([*text("a", "b"), *text("", timings={"predicted_n": 2})], 2, 2, 2, id="llama.cpp: timings"),
    ],
)
def test_tokens_are_counted(
    peer: Start, events: Sequence[bytes], tokens: int, events_with_text: int, usage_tokens: int | None
) -> None:
    """The engine's own count has priority over events with text; times are of events that stand for tokens."""
    _, (answer,) = ask(peer(completions(events)))

    assert (answer.tokens, len(answer.token_events), answer.usage_tokens) == (tokens, events_with_text, usage_tokens)
    assert answer.first_token is not None
    assert 0 < answer.first_token <= answer.seconds
    assert answer.speed is not None
    assert answer.speed > 0
    assert 1 <= len(answer.token_gaps) <= events_with_text - 1
    assert min(answer.token_gaps) > 0


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param([{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}], id="vLLM, SGLang"),
        pytest.param([{"role": "assistant", "content": None}, {"content": "a"}, {"content": "b"}], id="llama.cpp"),
        pytest.param(
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], id="Ollama: always a role"
        ),
        pytest.param([{"reasoning_content": "a", "content": None}, {"reasoning": "b"}], id="reasoning is text too"),
        pytest.param([{"tool_calls": [{"index": 0}]}, {"tool_calls": [{"index": 0}]}], id="so are tool calls"),
    ],
)
def test_an_engine_that_only_chats(peer: Start, deltas: Sequence[Any]) -> None:
    """One 404 selects the chat endpoint; the role and the bare end of a chat are no tokens."""

    def behave(path: str, body: dict[str, Any]) -> Reply:
        if path != "/v1/chat/completions":
            return Reply([b'{"detail": "Not Found"}'], 404, "application/json")
        assert body["messages"] == [{"role": "user", "content": "Hello"}]
        return Reply([*chat(*deltas), *chat({}, finish="stop"), usage(2), DONE], pause=0.005)

    server = peer(behave)
    engine, answers = ask(server, times=2)

    assert [(answer.tokens, len(answer.token_events)) for answer in answers] == [(2, 2)] * 2
    assert engine.endpoint == "chat"
    assert [path for path, _ in server.requests] == ["/v1/completions", *["/v1/chat/completions"] * 2]


def test_what_an_engine_refuses_is_left_out(peer: Start) -> None:
    """A field that the engine refuses costs one request, and is not sent again."""

    def behave(_path: str, body: dict[str, Any]) -> Reply:
        unknown = next((name for name in ("ignore_eos", "stream_options") if name in body), None)
        if unknown:
            error = b'{"error": {"message": "Unrecognized request argument supplied: %b"}}' % unknown.encode()
            return Reply([error], 400, "application/json")
        return Reply([*text("a", "b"), DONE], pause=0.005)

    server = peer(behave)
    _, answers = ask(server, times=2)

    assert [answer.tokens for answer in answers] == [2, 2]
    assert [len(body) for _, body in server.requests] == [7, 6, 5, 5]
    assert server.requests[-1][1] == {
        "model": "the-model",
        "prompt": "Hello",
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
    }


def test_an_answer_in_one_piece_has_no_first_token(peer: Start) -> None:
    """Without a stream tokens per second cover the whole answer, and there are no times of tokens."""
    body = b'{"choices": [{"text": "abc"}], "usage": {"completion_tokens": 3}}'
    _, (answer,) = ask(peer(lambda *_: Reply([body], 200, "application/json", pause=0.02)))

    assert (answer.tokens, answer.first_token, answer.token_gaps) == (3, None, [])
    assert answer.speed == pytest.approx(3 / answer.seconds)


def test_the_model_and_the_key_are_sent(peer: Start) -> None:
    """The model is the first of /v1/models or the named one; the key is a bearer token; a URL may end in /v1."""
    server = peer(completions([*text("a", "b"), DONE]))
    server.url += "/v1/"
    ask(server, key="secret")
    ask(server, model="other")

    assert [body["model"] for _, body in server.requests] == ["the-model", "other"]
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("models", [None, Reply([b"[]"], 200, "application/json"), Reply([b"<html>"], 200)])
def test_an_engine_without_a_list_of_models(peer: Start, models: Reply | None) -> None:
    """An engine without a list of models has one model, which needs no name."""
    server = peer(completions([*text("a", "b"), DONE]), models)
    ask(server)

    assert "model" not in server.requests[0][1]


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (
            Reply([b'{"error": {"message": "max_tokens is too large: 5."}}'], 400, "application/json"),
            "answered 400: max_tokens is too large: 5.",
        ),
        (Reply([b'{"detail": "Unauthorized"}'], 401, "application/json"), "answered 401: Unauthorized"),
        (Reply([b"busy\n  here"], 503, "text/plain"), "answered 503: busy here"),
        (Reply([b""], 500, "text/plain"), "answered 500: nothing more"),
        (Reply([b'{"error": "model not found"}'], 404, "application/json"), "answered 404: model not found"),
        (Reply([data({"error": {"message": "out of memory"}})]), "the stream ended with an error: out of memory"),
        (Reply([b"data: nonsense\n\n"]), "an event is not JSON: 'nonsense'"),
        (Reply([b"data: [1]\n\n"]), "an event is not an object"),
        (Reply([DONE]), "the stream has no text"),
        (Reply([b"<html>"], 200, "text/html"), "the answer is neither events nor JSON"),
        (Reply([b'{"choices": []}'], 200, "application/json"), "the answer has no usage"),
    ],
)
def test_what_goes_wrong_is_one_sentence(peer: Start, reply: Reply, sentence: str) -> None:
    """The sentence has the URL, the status and the engine's message, in any of the known shapes."""
    server = peer(lambda *_: reply)

    with pytest.raises(EngineError) as caught:
        ask(server)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(server.url)
    assert "\n" not in str(caught.value)


def test_nobody_there_is_one_sentence(peer: Start) -> None:
    """A refused connection says that the engine cannot be reached."""
    server = peer(completions([]))
    server.close()

    with pytest.raises(EngineError, match=r"cannot be reached: .*is the engine up"):
        ask(server)


def test_an_engine_that_falls_silent(peer: Start) -> None:
    """Too long without a byte ends the wait, and the sentence names the option."""
    server = peer(lambda *_: Reply([*text("a"), b""], pause=3.0))

    async def impatient() -> None:
        engine = EngineClient(server.url)
        try:
            await engine.connect(1, 0.2)
            await engine.complete(ORDER)
        finally:
            await engine.close()

    with pytest.raises(EngineError, match="no byte within --timeout"):
        asyncio.run(impatient())


def test_speeds_leave_the_first_token_out() -> None:
    """Four tokens after the first in two seconds are 2 tokens/s, however long the first one took."""
    pieces = tuple(StreamEvent(float(at), has_text=True) for at in (7.0, 7.5, 8.0, 8.5, 9.0))
    answer = Completion(sent_at=0.0, ended_at=9.1, events=pieces, usage_tokens=5, is_streamed=True)

    assert (answer.first_token, answer.speed, answer.token_gaps) == (7.0, 2.0, [0.5] * 4)
    assert Completion(0.0, 1.0, pieces[:1], 1, is_streamed=True).speed is None


def test_tokens_that_come_together_share_their_wait() -> None:
    """Three tokens of one read, a second after the first token, count as a third of a second apart."""
    pieces = tuple(StreamEvent(float(at), has_text=True) for at in (1.0, 2.0, 2.0, 2.0))
    answer = Completion(sent_at=0.0, ended_at=2.0, events=pieces, usage_tokens=4, is_streamed=True)

    assert answer.token_gaps == pytest.approx([1 / 3] * 3)
