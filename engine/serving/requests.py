"""The requests of clients, checked completely before any work: OpenAI's completions and chats, and the pace lease."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.checkpoints.tokenizer import Tokenizer
from engine.serving.chat import ChatTemplate, parse_messages
from engine.serving.json_fields import (
    Fields,
    HttpError,
    check_fields,
    parse_fields,
    read_flag,
    read_integer,
    read_number,
    read_seconds,
    read_seed,
)
from engine.serving.pace import MAX_TTL, MIN_DUTY

DEFAULT_TOKENS = 16  # tokens of a completion, as at OpenAI; a chat without max_tokens may fill the context
DEFAULT_TTL = 30.0  # seconds; the agent renews a lease well before its end
MAX_STOPS = 4
MAX_STOP_LENGTH = 256  # characters

# Fields that clients send by habit; ignoring any other value would be silently wrong, so it is refused.
_NEUTRAL_VALUES: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
}
_COMPLETION_NEUTRAL = _NEUTRAL_VALUES | {"best_of": 1, "echo": False, "suffix": ""}
_CHAT_NEUTRAL = _NEUTRAL_VALUES | {
    "top_logprobs": 0,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "store": False,
}
_IGNORED_FIELDS = ("model", "user", "metadata")  # accepted without effect: there is one model
_SAMPLING_FIELDS = ("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options", "ignore_eos")
_COMPLETION_FIELDS = ("prompt", *_SAMPLING_FIELDS, *_IGNORED_FIELDS, *_COMPLETION_NEUTRAL)
_CHAT_FIELDS = ("messages", "max_completion_tokens", *_SAMPLING_FIELDS, *_IGNORED_FIELDS, *_CHAT_NEUTRAL)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The limits of a request, and the tokenizer and template that make its prompt."""

    context: int  # tokens of prompt and answer together
    vocab: int  # tokens are 0 to vocab - 1
    tokenizer: Tokenizer
    template: ChatTemplate


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked request, which fits the context."""

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
class PaceLease:
    """A duty from 0.1 to 1.0, and its duration in seconds."""

    duty: float
    ttl: float


def parse_completion(body: bytes, spec: ModelSpec) -> CompletionRequest:
    """
    Parses the body of POST /v1/completions; raises HttpError.

    https://platform.openai.com/docs/api-reference/completions/create
    """
    fields = _parse_body(body, _COMPLETION_FIELDS, _COMPLETION_NEUTRAL)
    max_tokens = read_integer(fields, "max_tokens", DEFAULT_TOKENS, minimum=1, maximum=spec.context)
    return _build_completion(fields, _parse_prompt(fields, spec), max_tokens, spec.context)


def parse_chat(body: bytes, spec: ModelSpec) -> CompletionRequest:
    """
    Parses the body of POST /v1/chat/completions; raises HttpError.

    https://platform.openai.com/docs/api-reference/chat/create
    """
    fields = _parse_body(body, _CHAT_FIELDS, _CHAT_NEUTRAL)
    prompt = _encode_text(
        "messages", spec.template.render(parse_messages(fields)), spec, special=spec.template.needs_special_tokens
    )
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    available = max(1, spec.context - len(prompt))
    return _build_completion(
        fields, prompt, read_integer(fields, name, available, minimum=1, maximum=spec.context), spec.context
    )


def parse_lease(body: bytes) -> PaceLease:
    """Parses the body of PUT /pace, `{"duty": 0.5, "ttl": "30s"}`; ttl may be seconds. Raises HttpError."""
    fields = parse_fields(body, ("duty", "ttl"))
    if "duty" not in fields:
        raise HttpError(400, f"duty is missing: expected a number from {MIN_DUTY} to 1.")
    duty = read_number(fields, "duty", 1.0, minimum=MIN_DUTY, maximum=1.0)
    return PaceLease(duty, read_seconds(fields, "ttl", DEFAULT_TTL, maximum=MAX_TTL))


def _parse_body(body: bytes, allowed: tuple[str, ...], neutral: Fields) -> Fields:
    fields = parse_fields(body, allowed)
    for name, value in neutral.items():
        if fields.get(name, value) != value:
            raise HttpError(400, f"{name} is not supported: leave it out or send {json.dumps(value)}.")
    if not isinstance(fields.get("model", ""), str):
        raise HttpError(400, "model must be a string.")
    return fields


def _build_completion(fields: Fields, prompt: tuple[int, ...], max_tokens: int, context: int) -> CompletionRequest:
    if len(prompt) + max_tokens > context:
        # The KV cache has a fixed length: a longer request would fail in the middle of its answer.
        raise HttpError(
            400,
            f"The prompt has {len(prompt)} tokens and max_tokens is {max_tokens}, together "
            f"{len(prompt) + max_tokens}: the context of this engine is {context} tokens.",
        )
    return CompletionRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=read_number(fields, "temperature", 1.0, minimum=0.0, maximum=2.0),
        top_p=read_number(fields, "top_p", 1.0, minimum=0.0, maximum=1.0),
        seed=read_seed(fields),
        stop=_parse_stops(fields),
        ignore_eos=read_flag(fields, "ignore_eos"),
        stream=read_flag(fields, "stream"),
        include_usage=_parse_include_usage(fields),
    )


def _parse_prompt(fields: Fields, spec: ModelSpec) -> tuple[int, ...]:
    """Reads a text or a list of tokens; either may be the only element of a list."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return _encode_text("prompt", prompt, spec, special=True)
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
        raise HttpError(400, "prompt must be a string or a list of token numbers; one prompt per request.")
    if not all(0 <= token < spec.vocab for token in prompt):
        raise HttpError(400, f"prompt has an unknown token: tokens go from 0 to {spec.vocab - 1}.")
    return tuple(prompt)


def _encode_text(name: str, text: str, spec: ModelSpec, *, special: bool) -> tuple[int, ...]:
    try:
        tokens = tuple(spec.tokenizer.encode(text, special=special))
    except UnicodeEncodeError:
        raise HttpError(400, f"{name} must be text: it has half of a surrogate pair.") from None
    if not tokens:
        raise HttpError(400, f"{name} is empty: this model needs at least one token.")
    return tokens


def _parse_stops(fields: Fields) -> tuple[str, ...]:
    stops = fields.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise HttpError(400, f"stop must be a string or a list of at most {MAX_STOPS} strings.")
    if not all(1 <= len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise HttpError(400, f"A stop string must have from 1 to {MAX_STOP_LENGTH} characters.")
    return tuple(stops)


def _parse_include_usage(fields: Fields) -> bool:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise HttpError(400, 'stream_options must be an object with only "include_usage".')
    return read_flag(check_fields(options, ("include_usage",), "stream_options has"), "include_usage")
