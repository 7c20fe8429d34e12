"""Messages of a chat to the text that the model goes on from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from engine.checkpoints.tokenizer import Tokenizer
from engine.serving.json_fields import Fields, RefusedError, only

ROLES = ("system", "developer", "user", "assistant", "tool")
_OF_MESSAGE = ("role", "content", "name")


class Message(NamedTuple):
    """Who said what."""

    role: str
    content: str


class Template(Protocol):
    """How a model wants a chat to be written."""

    adds_begin: bool  # whether the tokenizer is to add its special tokens, because the text has none

    def render(self, messages: list[Message]) -> str:
        """The text up to where the assistant's answer begins; raises RefusedError."""


class Plain:
    """For a model that says nothing about it: each message on a line after its role."""

    adds_begin = True

    def render(self, messages: list[Message]) -> str:
        """`user: …`, and so on, and `assistant:`."""
        return "".join(f"{message.role}: {message.content}\n" for message in messages) + "assistant:"


def messages_of(fields: Fields) -> list[Message]:
    """The messages of a chat request; raises RefusedError."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedError(400, "messages must be a list of one message at least.")
    return [_message(f"messages[{place}]", message) for place, message in enumerate(messages)]


def _message(where: str, message: object) -> Message:
    if not isinstance(message, dict):
        raise RefusedError(400, f'{where} must be an object such as {{"role": "user", "content": "…"}}.')
    # What a client had as an answer it sends back with all its empty fields.
    fields = only({name: value for name, value in message.items() if value != []}, _OF_MESSAGE, f"{where} has")
    role = fields.get("role")
    if role not in ROLES:
        raise RefusedError(400, f"{where}.role must be one of {', '.join(ROLES)}.")
    return Message("system" if role == "developer" else role, _content(where, fields.get("content", "")))


def _content(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    texts = [_text(part) for part in content] if isinstance(content, list) else [None]
    if None in texts:
        raise RefusedError(400, f'{where}.content must be a string or a list of {{"type": "text", "text": "…"}}.')
    return "".join(text for text in texts if text is not None)


def _text(part: object) -> str | None:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    return text if isinstance(text, str) else None


def template_of(tokenizer: Tokenizer) -> Template:
    """What renders chats for the model of a tokenizer."""
    if tokenizer.chat_template is None:
        return Plain()
    from engine.serving.jinja_template import (
        JinjaTemplate,  # jinja2 is an extra, which models without a template do without
    )

    return JinjaTemplate(tokenizer.chat_template, tokenizer.special_tokens)
