"""
Responses in OpenAI's format, in one piece or as events.

https://platform.openai.com/docs/api-reference/completions/object and …/chat/object
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from engine.serving.request_stream import Piece
from engine.serving.requests import CompletionRequest

Fields = dict[str, Any]


class CompletionResponse:
    """The response to POST /v1/completions."""

    id_prefix, object_type, chunk_object_type = "cmpl", "text_completion", "text_completion"

    def __init__(self, completion: CompletionRequest, model_name: str) -> None:
        self._completion = completion
        self._envelope = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model_name,
        }

    def to_object(self, pieces: Iterable[Piece]) -> Fields:
        """Returns the response in one piece."""
        all_pieces = list(pieces)
        choice = self._build_choice("".join(piece.text for piece in all_pieces), all_pieces[-1].finish_reason)
        return self._wrap(self.object_type, [choice]) | {"usage": self._count_usage(len(all_pieces))}

    def iter_events(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """Yields one event per token, even if its text is withheld; then the usage if requested, then [DONE]."""
        token_count = 0
        for token_count, piece in enumerate(pieces, 1):
            yield from (self._encode_event([choice]) for choice in self._build_choices(piece, first=token_count == 1))
        if self._completion.include_usage:
            yield self._encode_event([], usage=self._count_usage(token_count))
        yield b"[DONE]"

    def _build_choices(self, piece: Piece, *, first: bool) -> Iterator[Fields]:
        yield self._build_choice(piece.text, piece.finish_reason)

    def _build_choice(self, text: str, finish_reason: str | None) -> Fields:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _encode_event(self, choices: list[Fields], **extra: Fields) -> bytes:
        return json.dumps(self._wrap(self.chunk_object_type, choices) | extra).encode()

    def _wrap(self, object_type: str, choices: list[Fields]) -> Fields:
        return {**self._envelope, "object": object_type, "choices": choices}

    def _count_usage(self, completion_tokens: int) -> Fields:
        prompt_tokens = len(self._completion.prompt)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


class ChatResponse(CompletionResponse):
    """The response to POST /v1/chat/completions."""

    id_prefix, object_type, chunk_object_type = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _build_choices(self, piece: Piece, *, first: bool) -> Iterator[Fields]:
        if first:
            yield self._build_delta({"role": "assistant", "content": ""})
        yield self._build_delta({"content": piece.text})
        if piece.finish_reason is not None:
            yield self._build_delta({}, piece.finish_reason)

    def _build_choice(self, text: str, finish_reason: str | None) -> Fields:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}

    @staticmethod
    def _build_delta(delta: Fields, finish_reason: str | None = None) -> Fields:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def list_models(name: str, started: float, context: int) -> Fields:
    """Returns the response to GET /v1/models, which lists the only model."""
    return {"object": "list", "data": [describe_model(name, started, context)]}


def describe_model(name: str, started: float, context: int) -> Fields:
    """Describes a model; `max_model_len` is vLLM's field for the context, which OpenAI lacks."""
    return {
        "id": name,
        "object": "model",
        "created": int(started),
        "owned_by": "steadytok",
        "max_model_len": context,
    }
