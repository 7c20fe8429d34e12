"""Chats: the accepted requests, the rendered prompt, and untrusted templates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.tokenizer import ByteTokenizer
from engine.serving.chat import ChatMessage, PlainTemplate
from engine.serving.chat_template import select_chat_template
from engine.serving.jinja_template import MAX_SOURCE_LENGTH, JinjaTemplate
from engine.serving.json_fields import HttpError
from engine.serving.requests import CompletionRequest, ModelSpec, parse_chat, parse_completion

Client = Any
Answer = Any

SPEC = ModelSpec(128, 257, ByteTokenizer(), PlainTemplate())
CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
USER = [ChatMessage("user", "hi")]


def post_chat(client: Client, **fields: Any) -> Answer:
    """Sends POST /v1/chat/completions."""
    request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5} | fields
    return client.ask("POST", "/v1/chat/completions", json.dumps(request).encode())


def decode_prompt(prompt: tuple[int, ...]) -> str:
    """Returns the text of byte tokens."""
    return bytes(token for token in prompt if token < 256).decode()


def test_chat_has_openai_shape(client: Client) -> None:
    """A chat response has its message, finish reason and usage."""
    fields = post_chat(client, temperature=0).json()

    assert fields["object"] == "chat.completion"
    assert fields["choices"][0]["message"]["role"] == "assistant"
    assert fields["choices"][0]["finish_reason"] == "length"
    assert fields["usage"] == {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


def test_chat_stream_equals_whole(client: Client) -> None:
    """A stream has the role, the text, the finish reason and the usage; together they are the whole answer."""
    content = post_chat(client, temperature=0.8, seed=4).json()["choices"][0]["message"]["content"]
    answer = post_chat(client, temperature=0.8, seed=4, stream=True, stream_options={"include_usage": True})
    *chunks, done = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
    *pieces, usage = [json.loads(chunk) for chunk in chunks]
    deltas = [piece["choices"][0]["delta"] for piece in pieces]

    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    assert "".join(delta.get("content", "") for delta in deltas) == content
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 5, "[DONE]")


def test_chat_fills_the_context(client: Client) -> None:
    """Without max_tokens an answer may fill the context."""
    fields = post_chat(client, max_tokens=None).json()

    assert fields["usage"]["total_tokens"] == 128


def test_parts_and_roles() -> None:
    """Text may come in parts, a developer counts as system, and a former answer may have empty fields."""
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "user", "content": "so?"},
    ]
    request = parse_chat(json.dumps({"messages": messages, "max_completion_tokens": 3}).encode(), SPEC)

    assert decode_prompt(request.prompt) == "system: be brief\nassistant: yes\nuser: so?\nassistant:"
    assert request.max_tokens == 3


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messages": []}, "messages must be a list of one message at least"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": ["hi"]}, "messages[0] must be an object"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content must be a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content must be"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": "hi", "mood": 1}]}, "messages[0] has 'mood'"),
        ({"messages": [{"role": "user", "content": "a" * 200}]}, "The prompt has 218 tokens"),
        ({"max_tokens": 120}, "together 140: the context of this engine is 128 tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens must be a whole number"),
        ({"temperature": -1}, "temperature must be a number from 0 to 2"),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"n": 2}, "n is not supported"),
    ],
)
def test_wrong_chat_is_refused(client: Client, fields: dict[str, Any], sentence: str) -> None:
    """A wrong chat is a 400 with a sentence that names the field, and nothing is generated."""
    answer = post_chat(client, **fields)

    assert answer.status == 400
    assert sentence in answer.json()["error"]["message"]
    assert client.read_metric("generated_tokens_total") == 0


def test_more_than_the_cache_is_refused_before_it_is_tried(client: Client) -> None:
    """A prompt and answer beyond the KV cache are a 400 with the reason; other engines fail in the middle."""
    answer = client.complete(prompt="a" * 100, max_tokens=100)

    assert answer.status == 400
    assert answer.json()["error"]["message"] == (
        "The prompt has 101 tokens and max_tokens is 100, together 201: the context of this engine is 128 tokens."
    )


def test_template_of_a_checkpoint() -> None:
    """The checkpoint's template renders the prompt, with its special tokens."""
    template = JinjaTemplate("{{ bos_token }}" + CHATML, {"bos_token": "<s>"})

    assert template.render([ChatMessage("system", "be brief"), *USER]) == (
        "<s><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not template.needs_special_tokens


def test_template_is_found() -> None:
    """A tokenizer's template is selected; without one, the plain template."""
    with_template = ByteTokenizer()
    with_template.chat_template = CHATML

    assert isinstance(select_chat_template(with_template), JinjaTemplate)
    assert isinstance(select_chat_template(ByteTokenizer()), PlainTemplate)


def test_template_has_what_others_give_it() -> None:
    """tojson does not escape characters, loops may break, and strftime_now works."""
    source = "{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}{{ strftime_now('%Y') | length }}"

    assert JinjaTemplate(source, {}).render([ChatMessage("user", "é<")]) == '{"role": "user", "content": "é<"}4'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", "cannot be used: line 1:"),
        ("{{ messages", "cannot be used: line 1:"),
        ("x" * (MAX_SOURCE_LENGTH + 1), "cannot be used: it has 262145 characters, more than 262144"),
        ("{{ raise_exception('Roles must alternate') }}", "does not accept these messages: Roles must alternate."),
        ("{{ messages[7].content }}", "does not accept these messages:"),
        ("{{ 1 / 0 }}", "does not accept these messages: division by zero."),
        ("{{ messages.append(1) }}", "does not accept these messages:"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "does not accept these messages:"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "not come to an end"),
        ("{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}", "not come to an end"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "does not accept these messages:"),
        ("{{ 'x' * 9999999999 }}", "* of values this large is not allowed"),
        ("{{ 9 ** 9 ** 9 }}", "** of values this large is not allowed"),
        ("{{ 'x'.ljust(9999999999) }}", "a number this large is not allowed"),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "longer than 4194304 characters"),
    ],
)
def test_failing_template_is_a_sentence(source: str, reason: str) -> None:
    """A faulty or excessive template is a 400 with the reason, and wastes no time or memory."""
    with pytest.raises(HttpError) as refused:
        JinjaTemplate(source, {}).render(USER)

    assert refused.value.status == 400
    assert reason in refused.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ["prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream"]
NAMES += ["stream_options", "ignore_eos", "model", "user", "n", "logit_bias", "tools", "response_format", "x"]
LIKELY = {
    "prompt": st.text(max_size=40) | st.lists(st.integers(-1, 300), max_size=5),
    "messages": st.lists(
        st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "system", "x"]), "content": JSON}),
        max_size=3,
    ),
    "max_tokens": st.integers(-5, 200),
    "temperature": st.floats(),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5),
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draws bytes, or objects with some valid fields."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=7, unique=True))
    return json.dumps({name: draw(LIKELY.get(name, JSON) | JSON) for name in names}).encode()


@given(bodies())
def test_no_body_breaks_the_parser(body: bytes) -> None:
    """Any bytes are a valid request, or a 400 with one sentence."""
    for parse in (parse_completion, parse_chat):
        try:
            request = parse(body, SPEC)
        except HttpError as refused:
            assert refused.status == 400
            assert refused.message.endswith(".")
            assert "\n" not in refused.message
        else:
            assert isinstance(request, CompletionRequest)
            assert 1 <= len(request.prompt) < len(request.prompt) + request.max_tokens <= SPEC.context
            assert all(0 <= token < SPEC.vocab for token in request.prompt)
            assert all(request.stop)
