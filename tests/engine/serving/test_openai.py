"""OpenAI's client against the engine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

Client = Any
MESSAGES: Any = [{"role": "user", "content": "hi"}]


def connect_official(client: Client) -> openai.OpenAI:
    """Returns a client without retries, which would hide failures."""
    return openai.OpenAI(base_url=f"{client.server.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture(name="api")
def _api(client: Client) -> Iterator[openai.OpenAI]:
    with connect_official(client) as api:
        yield api


def test_models(api: openai.OpenAI) -> None:
    """The only model is listed and can be retrieved; another is not found."""
    assert [model.id for model in api.models.list()] == ["tiny"]
    assert api.models.retrieve("tiny").owned_by == "steadytok"
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt' here"):
        api.models.retrieve("gpt")


def test_completion(api: openai.OpenAI) -> None:
    """A completion of text equals the completion of its tokens."""
    text = api.completions.create(model="tiny", prompt="hi", max_tokens=6, temperature=0)
    tokens = api.completions.create(model="tiny", prompt=[256, 104, 105], max_tokens=6, temperature=0)

    assert text.choices[0].finish_reason == "length"
    assert text.usage is not None
    assert text.usage.completion_tokens == 6
    assert tokens.choices[0].text == text.choices[0].text


def test_chat(api: openai.OpenAI) -> None:
    """A chat answer can be sent back in the form that the client stores."""
    first = api.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=4, top_p=0.9, seed=1)
    message = first.choices[0].message
    again: Any = [*MESSAGES, message, *MESSAGES]
    second = api.chat.completions.create(model="tiny", messages=again, max_tokens=4)

    assert message.role == "assistant"
    assert second.usage is not None
    assert second.usage.completion_tokens == 4


def test_streaming_with_usage(api: openai.OpenAI) -> None:
    """A stream has the text of the whole answer and, if requested, the usage at the end."""
    completion = api.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=20, temperature=0)
    stream = api.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=20,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    assert text == completion.choices[0].message.content
    assert chunks[-1].usage == completion.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_stop_strings(api: openai.OpenAI) -> None:
    """A stop string ends the answer before it, whole and streamed alike."""
    request: dict[str, Any] = {"model": "tiny", "prompt": "hi", "max_tokens": 60, "seed": 3, "temperature": 1.0}
    text = api.completions.create(**request).choices[0].text
    stop = text[8:10]
    stopped = api.completions.create(**request, stop=[stop, "never there"])
    streamed = list(api.completions.create(**request, stop=stop, stream=True))

    assert stopped.choices[0].finish_reason == streamed[-1].choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert "".join(chunk.choices[0].text for chunk in streamed) == stopped.choices[0].text


def test_refusals_are_the_clients_own_errors(api: openai.OpenAI) -> None:
    """The client raises a refusal as its error of that kind, with our sentence."""
    with pytest.raises(openai.BadRequestError, match="the context of this engine is 128 tokens"):
        api.completions.create(model="tiny", prompt="a" * 100, max_tokens=100)
    with pytest.raises(openai.BadRequestError, match="temperature must be a number from 0 to 2"):
        api.chat.completions.create(model="tiny", messages=MESSAGES, temperature=-1)


def test_cancellation_in_the_middle(slow_client: Client, wait_until: Any) -> None:
    """A stream that its client closes gets no more passes, and its slot is free for the next request."""
    with connect_official(slow_client) as api:
        stream = api.completions.create(model="tiny", prompt="a", max_tokens=120, stream=True)
        for _ in range(3):
            next(stream)
        slow_client.gate.clear()
        stream.close()
        generated = slow_client.read_metric("generated_tokens_total")
        slow_client.gate.set()
        wait_until(lambda: slow_client.read_metric("requests_running") == 0)

        # The pass that waited at the gate began before the client left; at most one more has not noticed it yet.
        assert slow_client.read_metric("generated_tokens_total") <= generated + 2
        assert api.completions.create(model="tiny", prompt="a", max_tokens=1).choices[0].finish_reason == "length"


def test_fifty_at_once(slow_client_of_3: Client, wait_until: Any) -> None:
    """Each of fifty requests at once on three slots, streams and others, gets its own complete answer."""

    def ask(number: int) -> tuple[int, str]:
        request: dict[str, Any] = {"model": "tiny", "prompt": f"number {number}", "max_tokens": 8, "temperature": 0}
        if number % 2:
            return number, "".join(chunk.choices[0].text for chunk in api.completions.create(**request, stream=True))
        return number, api.completions.create(**request).choices[0].text

    with connect_official(slow_client_of_3) as api:
        alone = dict(map(ask, range(3)))
        with ThreadPoolExecutor(50) as clients:
            together = dict(clients.map(ask, range(50)))
    wait_until(lambda: slow_client_of_3.read_metric("requests_running") == 0)

    assert len(together) == 50
    assert {number: together[number] for number in alone} == alone
    assert slow_client_of_3.read_metric("generated_tokens_total") == 53 * 8
