"""Chooses how the chats of a checkpoint become text: by its own Jinja template, else plainly."""

from __future__ import annotations

from engine.checkpoints.tokenizer import Tokenizer
from engine.serving.chat import ChatTemplate, PlainTemplate


def select_chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Returns the chat template of a tokenizer, a PlainTemplate where the checkpoint has none."""
    if tokenizer.chat_template is None:
        return PlainTemplate()
    # jinja2 is an extra: models without a template run without it.
    from engine.serving.jinja_template import JinjaTemplate

    return JinjaTemplate(tokenizer.chat_template, tokenizer.special_tokens)
