"""What a client may ask, checked whole before any work: OpenAI's completion request and the pace lease."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from engine.pace import LONGEST, LOWEST
from engine.tokenizer import Tokenizer

DEFAULT_TTL = 30.0  # seconds; the agent renews well before that

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Fields that clients send by habit; anything but the neutral value would be silently wrong, so it is refused.
_NEUTRAL = {"n": 1, "best_of": 1, "top_p": 1, "echo": False, "presence_penalty": 0, "frequency_penalty": 0}
_FREE = ("model", "user")  # taken and without effect
_KNOWN = ("prompt", "max_tokens", "temperature", "seed", "stream", "stream_options", "ignore_eos", *_FREE, *_NEUTRAL)


class RefusedError(Exception):
    """A request that will not be served: an HTTP status and one sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion request that fits the context."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int | None
    stream: bool
    include_usage: bool
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """Duty 0.1 to 1.0 and for how many seconds."""

    duty: float
    ttl: float


def parse_completion(body: bytes, context: int, tokenizer: Tokenizer) -> Completion:
    """
    The body of POST /v1/completions; raises RefusedError.

    https://platform.openai.com/docs/api-reference/completions/create
    """
    fields = _fields(body, _KNOWN)
    for name, neutral in _NEUTRAL.items():
        if fields.get(name, neutral) != neutral:
            raise RefusedError(400, f"{name} is not supported: leave it out or send {json.dumps(neutral)}.")
    max_tokens = _whole(fields, "max_tokens", 16, least=1, most=context)
    prompt = _prompt(fields, tokenizer)
    if len(prompt) + max_tokens > context:
        raise RefusedError(
            400,
            f"The prompt has {len(prompt)} tokens and max_tokens is {max_tokens}, together "
            f"{len(prompt) + max_tokens}: the context of this engine is {context} tokens.",
        )
    return Completion(
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=_number(fields, "temperature", 1.0, least=0.0, most=2.0),
        seed=_seed(fields),
        stream=_flag(fields, "stream"),
        include_usage=_include_usage(fields),
        ignore_eos=_flag(fields, "ignore_eos"),
    )


def parse_lease(body: bytes) -> Lease:
    """The body of PUT /pace, `{"duty": 0.5, "ttl": "30s"}` with ttl also in seconds; raises RefusedError."""
    fields = _fields(body, ("duty", "ttl"))
    if "duty" not in fields:
        raise RefusedError(400, f"duty is missing: expected a number from {LOWEST} to 1.")
    duty = _number(fields, "duty", 1.0, least=LOWEST, most=1.0)
    if isinstance(fields.get("ttl"), str):
        fields["ttl"] = _duration(fields["ttl"])
    return Lease(duty, _number(fields, "ttl", DEFAULT_TTL, least=0.001, most=LONGEST))


def _fields(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        fields = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, "The body must be a JSON object.")
    for name in fields:
        if name not in known:
            raise RefusedError(400, f"Unknown field {name[:40]!r}: expected only {', '.join(known)}.")
    return {name: value for name, value in fields.items() if value is not None}


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _prompt(fields: dict[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str):
        raise RefusedError(400, "prompt must be a string.")
    try:
        tokens = tuple(tokenizer.encode(prompt))
    except UnicodeEncodeError:
        raise RefusedError(400, "prompt must be text: it holds half of a surrogate pair.") from None
    if not tokens:
        raise RefusedError(400, "prompt is empty, and this model has no token to begin with.")
    return tokens


def _number(fields: dict[str, Any], name: str, default: float, *, least: float, most: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RefusedError(400, f"{name} must be a number from {least:g} to {most:g}.")
    return float(value)


def _whole(fields: dict[str, Any], name: str, default: int, *, least: int, most: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RefusedError(400, f"{name} must be a whole number from {least} to {most}.")
    return value


def _seed(fields: dict[str, Any]) -> int | None:
    if "seed" not in fields:
        return None
    return _whole(fields, "seed", 0, least=-(1 << 63), most=(1 << 63) - 1) % (1 << 64)  # NumPy takes no negative seed


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise RefusedError(400, f"{name} must be true or false.")
    return value


def _include_usage(fields: dict[str, Any]) -> bool:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict) or not set(options) <= {"include_usage"}:
        raise RefusedError(400, 'stream_options must be an object with only "include_usage".')
    return _flag(options, "include_usage")


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else math.nan
    if not 0.001 <= seconds <= LONGEST:
        raise RefusedError(400, f'ttl must be seconds, or a duration such as "30s" of at most {LONGEST:g} seconds.')
    return seconds
