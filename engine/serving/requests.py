"""What a client may ask, checked whole before any work: OpenAI's completions and chat, and the pace lease."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.checkpoints.tokenizer import Tokenizer
from engine.serving.chat import Template, messages_of
from engine.serving.json_fields import Fields, RefusedError, fields_of, flag, number, only, seconds, seed, whole
from engine.serving.pace import LONGEST, LOWEST

DEFAULT_TOKENS = 16  # of a completion, as OpenAI has it; a chat without a number may fill the context
DEFAULT_TTL = 30.0  # seconds; the agent renews well before that
MOST_STOPS = 4
LONGEST_STOP = 256  # characters

# Fields that clients send by habit; anything but the neutral value would be silently wrong, so it is refused.
_NEUTRAL: dict[str, Any] = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "logprobs": False}
_COMPLETION_NEUTRAL = _NEUTRAL | {"best_of": 1, "echo": False, "suffix": ""}
_CHAT_NEUTRAL = _NEUTRAL | {
    "top_logprobs": 0,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "store": False,
}
_FREE = ("model", "user", "metadata")  # taken and without effect: there is one model
_ASKED = ("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options", "ignore_eos")
_COMPLETION = ("prompt", *_ASKED, *_FREE, *_COMPLETION_NEUTRAL)
_CHAT = ("messages", "max_completion_tokens", *_ASKED, *_FREE, *_CHAT_NEUTRAL)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request must fit, and how its text becomes tokens."""

    context: int  # tokens of prompt and answer together
    vocab: int  # tokens are 0 to vocab - 1
    tokenizer: Tokenizer
    template: Template


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that fits the context."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """Duty 0.1 to 1.0 and for how many seconds."""

    duty: float
    ttl: float


def parse_completion(body: bytes, terms: Terms) -> Completion:
    """
    The body of POST /v1/completions; raises RefusedError.

    https://platform.openai.com/docs/api-reference/completions/create
    """
    fields = _checked(body, _COMPLETION, _COMPLETION_NEUTRAL)
    max_tokens = whole(fields, "max_tokens", DEFAULT_TOKENS, least=1, most=terms.context)
    return _completion(fields, _prompt(fields, terms), max_tokens, terms.context)


def parse_chat(body: bytes, terms: Terms) -> Completion:
    """
    The body of POST /v1/chat/completions; raises RefusedError.

    https://platform.openai.com/docs/api-reference/chat/create
    """
    fields = _checked(body, _CHAT, _CHAT_NEUTRAL)
    prompt = _encoded("messages", terms.template.render(messages_of(fields)), terms, special=terms.template.adds_begin)
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    room = max(1, terms.context - len(prompt))
    return _completion(fields, prompt, whole(fields, name, room, least=1, most=terms.context), terms.context)


def parse_lease(body: bytes) -> Lease:
    """The body of PUT /pace, `{"duty": 0.5, "ttl": "30s"}` with ttl also in seconds; raises RefusedError."""
    fields = fields_of(body, ("duty", "ttl"))
    if "duty" not in fields:
        raise RefusedError(400, f"duty is missing: expected a number from {LOWEST} to 1.")
    duty = number(fields, "duty", 1.0, least=LOWEST, most=1.0)
    return Lease(duty, seconds(fields, "ttl", DEFAULT_TTL, most=LONGEST))


def _checked(body: bytes, known: tuple[str, ...], neutral: Fields) -> Fields:
    fields = fields_of(body, known)
    for name, value in neutral.items():
        if fields.get(name, value) != value:
            raise RefusedError(400, f"{name} is not supported: leave it out or send {json.dumps(value)}.")
    if not isinstance(fields.get("model", ""), str):
        raise RefusedError(400, "model must be a string.")
    return fields


def _completion(fields: Fields, prompt: tuple[int, ...], max_tokens: int, context: int) -> Completion:
    if len(prompt) + max_tokens > context:
        # The KV cache has a fixed length: what does not fit would fail in the middle of the answer.
        raise RefusedError(
            400,
            f"The prompt has {len(prompt)} tokens and max_tokens is {max_tokens}, together "
            f"{len(prompt) + max_tokens}: the context of this engine is {context} tokens.",
        )
    return Completion(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=number(fields, "temperature", 1.0, least=0.0, most=2.0),
        top_p=number(fields, "top_p", 1.0, least=0.0, most=1.0),
        seed=seed(fields),
        stop=_stops(fields),
        ignore_eos=flag(fields, "ignore_eos"),
        stream=flag(fields, "stream"),
        include_usage=_include_usage(fields),
    )


def _prompt(fields: Fields, terms: Terms) -> tuple[int, ...]:
    """A text, or its tokens; either also as the one element of a list."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return _encoded("prompt", prompt, terms, special=True)
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
        raise RefusedError(400, "prompt must be a string or a list of token numbers; one prompt per request.")
    if not all(0 <= token < terms.vocab for token in prompt):
        raise RefusedError(400, f"prompt holds a token that there is not: they go from 0 to {terms.vocab - 1}.")
    return tuple(prompt)


def _encoded(name: str, text: str, terms: Terms, *, special: bool) -> tuple[int, ...]:
    try:
        tokens = tuple(terms.tokenizer.encode(text, special=special))
    except UnicodeEncodeError:
        raise RefusedError(400, f"{name} must be text: it holds half of a surrogate pair.") from None
    if not tokens:
        raise RefusedError(400, f"{name} is empty: this model needs one token at least to go on from.")
    return tokens


def _stops(fields: Fields) -> tuple[str, ...]:
    stops = fields.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise RefusedError(400, f"stop must be a string or a list of at most {MOST_STOPS} strings.")
    if not all(1 <= len(stop) <= LONGEST_STOP for stop in stops):
        raise RefusedError(400, f"A stop string must have from 1 to {LONGEST_STOP} characters.")
    return tuple(stops)


def _include_usage(fields: Fields) -> bool:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise RefusedError(400, 'stream_options must be an object with only "include_usage".')
    return flag(only(options, ("include_usage",), "stream_options has"), "include_usage")
