"""
Answers in OpenAI's shape, whole or as events.

https://platform.openai.com/docs/api-reference/completions/object and …/chat/object
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from engine.serving.request_stream import Piece
from engine.serving.requests import Completion

Fields = dict[str, Any]


class Answer:
    """The answer to POST /v1/completions."""

    mark, whole_object, piece_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, asked: Completion, model_name: str) -> None:
        self._asked = asked
        self._frame = {"id": f"{self.mark}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}

    def whole(self, pieces: Iterable[Piece]) -> Fields:
        """The answer in one piece."""
        made = list(pieces)
        choice = self._choice("".join(piece.text for piece in made), made[-1].finish_reason)
        return self._framed(self.whole_object, [choice]) | {"usage": self._usage(len(made))}

    def events(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """One event per token, also where its text is held back; then usage if asked for, then [DONE]."""
        made = 0
        for made, piece in enumerate(pieces, 1):
            yield from (self._event([choice]) for choice in self._choices(piece, first=made == 1))
        if self._asked.include_usage:
            yield self._event([], usage=self._usage(made))
        yield b"[DONE]"

    def _choices(self, piece: Piece, *, first: bool) -> Iterator[Fields]:
        yield self._choice(piece.text, piece.finish_reason)

    def _choice(self, text: str, finish_reason: str | None) -> Fields:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _event(self, choices: list[Fields], **more: Fields) -> bytes:
        return json.dumps(self._framed(self.piece_object, choices) | more).encode()

    def _framed(self, kind: str, choices: list[Fields]) -> Fields:
        return {**self._frame, "object": kind, "choices": choices}

    def _usage(self, made: int) -> Fields:
        asked = len(self._asked.prompt)
        return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


class ChatAnswer(Answer):
    """The answer to POST /v1/chat/completions."""

    mark, whole_object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choices(self, piece: Piece, *, first: bool) -> Iterator[Fields]:
        if first:
            yield self._delta({"role": "assistant", "content": ""})
        yield self._delta({"content": piece.text})
        if piece.finish_reason is not None:
            yield self._delta({}, piece.finish_reason)

    def _choice(self, text: str, finish_reason: str | None) -> Fields:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}

    @staticmethod
    def _delta(delta: Fields, finish_reason: str | None = None) -> Fields:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def models(name: str, started: float, context: int) -> Fields:
    """The answer to GET /v1/models: the one there is."""
    return {"object": "list", "data": [model(name, started, context)]}


def model(name: str, started: float, context: int) -> Fields:
    """One model; `max_model_len` is vLLM's word for the context, which OpenAI does not tell."""
    return {
        "id": name,
        "object": "model",
        "created": int(started),
        "owned_by": "steadytok",
        "max_model_len": context,
    }
