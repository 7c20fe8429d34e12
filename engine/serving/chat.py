"""The messages of a chat, read from a request and rendered to the prompt of the model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from engine.serving.json_fields import Fields, HttpError, check_fields

ROLES = ("system", "developer", "user", "assistant", "tool")
_MESSAGE_FIELDS = ("role", "content", "name")


class ChatMessage(NamedTuple):
    """One message: the role of its author and its text."""

    role: str
    content: str


class ChatTemplate(Protocol):
    """Renders a chat in the format of one model."""

    needs_special_tokens: bool  # True if the rendered text lacks the special tokens

    def render(self, messages: list[ChatMessage]) -> str:
        """Returns the text up to the start of the assistant's answer; raises HttpError."""


class PlainTemplate:
    """The format for models without a template: each message on a line, after its role."""

    needs_special_tokens = True

    def render(self, messages: list[ChatMessage]) -> str:
        """Returns `user: …` and so on, then `assistant:`."""
        return "".join(f"{message.role}: {message.content}\n" for message in messages) + "assistant:"


def parse_messages(fields: Fields) -> list[ChatMessage]:
    """Reads the messages of a chat request; raises HttpError."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise HttpError(400, "messages must be a list of one message at least.")
    return [_parse_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _parse_message(path: str, message: object) -> ChatMessage:
    if not isinstance(message, dict):
        raise HttpError(400, f'{path} must be an object such as {{"role": "user", "content": "…"}}.')
    # A client sends a former answer back with all its empty fields.
    fields = check_fields(
        {name: value for name, value in message.items() if value != []}, _MESSAGE_FIELDS, f"{path} has"
    )
    role = fields.get("role")
    if role not in ROLES:
        raise HttpError(400, f"{path}.role must be one of {', '.join(ROLES)}.")
    return ChatMessage("system" if role == "developer" else role, _parse_content(path, fields.get("content", "")))


def _parse_content(path: str, content: object) -> str:
    if isinstance(content, str):
        return content
    texts = [_get_part_text(part) for part in content] if isinstance(content, list) else [None]
    if None in texts:
        raise HttpError(400, f'{path}.content must be a string or a list of {{"type": "text", "text": "…"}}.')
    return "".join(text for text in texts if text is not None)


def _get_part_text(part: object) -> str | None:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    return text if isinstance(text, str) else None
