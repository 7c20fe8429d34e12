"""What a client may ask, checked whole before any work: OpenAI's completions and chat, and the pace lease."""

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

DEFAULT_TOKENS = 16  # of a completion, as OpenAI has it; a chat without a number may fill the context
DEFAULT_TTL = 30.0  # seconds; the agent renews well before that
MAX_STOPS = 4
MAX_STOP_LENGTH = 256  # characters

# Fields that clients send by habit; anything but the neutral value would be silently wrong, so it is refused.
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
_IGNORED_FIELDS = ("model", "user", "metadata")  # taken and without effect: there is one model
_SAMPLING_FIELDS = ("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options", "ignore_eos")
_COMPLETION_FIELDS = ("prompt", *_SAMPLING_FIELDS, *_IGNORED_FIELDS, *_COMPLETION_NEUTRAL)
_CHAT_FIELDS = ("messages", "max_completion_tokens", *_SAMPLING_FIELDS, *_IGNORED_FIELDS, *_CHAT_NEUTRAL)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a request must fit, and how its text becomes tokens."""

    context: int  # tokens of prompt and answer together
    vocab: int  # tokens are 0 to vocab - 1
    tokenizer: Tokenizer
    template: ChatTemplate


@dataclass(frozen=True, slots=True)
class CompletionRequest:
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
class PaceLease:
    """Duty 0.1 to 1.0 and for how many seconds."""

    duty: float
    ttl: float


def parse_completion(body: bytes, spec: ModelSpec) -> CompletionRequest:
    """
    The body of POST /v1/completions; raises RefusedError.

    https://platform.openai.com/docs/api-reference/completions/create
    """
    fields = _parse_body(body, _COMPLETION_FIELDS, _COMPLETION_NEUTRAL)
    max_tokens = read_integer(fields, "max_tokens", DEFAULT_TOKENS, minimum=1, maximum=spec.context)
    return _build_completion(fields, _parse_prompt(fields, spec), max_tokens, spec.context)


def parse_chat(body: bytes, spec: ModelSpec) -> CompletionRequest:
    """
    The body of POST /v1/chat/completions; raises RefusedError.

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
    """The body of PUT /pace, `{"duty": 0.5, "ttl": "30s"}` with ttl also in seconds; raises RefusedError."""
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
        # The KV cache has a fixed length: what does not fit would fail in the middle of the answer.
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
    """A text, or its tokens; either also as the one element of a list."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return _encode_text("prompt", prompt, spec, special=True)
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
        raise HttpError(400, "prompt must be a string or a list of token numbers; one prompt per request.")
    if not all(0 <= token < spec.vocab for token in prompt):
        raise HttpError(400, f"prompt holds a token that there is not: they go from 0 to {spec.vocab - 1}.")
    return tuple(prompt)


def _encode_text(name: str, text: str, spec: ModelSpec, *, special: bool) -> tuple[int, ...]:
    try:
        tokens = tuple(spec.tokenizer.encode(text, special=special))
    except UnicodeEncodeError:
        raise HttpError(400, f"{name} must be text: it holds half of a surrogate pair.") from None
    if not tokens:
        raise HttpError(400, f"{name} is empty: this model needs one token at least to go on from.")
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
