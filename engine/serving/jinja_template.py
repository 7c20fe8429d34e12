"""
Renders a checkpoint's chat template as Hugging Face transformers does, in jinja2's sandbox and within bounds.

https://huggingface.co/docs/transformers/chat_templating_writing and https://jinja.palletsprojects.com/sandbox/
A template comes with the model, from the Internet, and messages come from clients. Neither may run code, run for ever
or fill the memory; the sandbox prevents only the first.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.serving.chat import ChatMessage
from engine.serving.json_fields import HttpError

MAX_SOURCE_LENGTH = 1 << 18  # characters; the longest known templates have 20,000
MAX_TEXT_LENGTH = 1 << 22  # characters of the rendered text
MAX_LINES = 1_000_000  # executed lines of template code; about a quarter of a second


class JinjaTemplate:
    """One chat template; if it does not compile, it refuses every chat with the reason."""

    needs_special_tokens = False  # a template writes the special tokens itself

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are variables such as bos_token and eos_token."""
        self._special_tokens = dict(special_tokens)
        self._template: Template | None = None
        try:
            if len(source) > MAX_SOURCE_LENGTH:
                raise TemplateError(f"it has {len(source)} characters, more than {MAX_SOURCE_LENGTH}")
            self._template = _create_environment().from_string(source)
        except (TemplateError, RecursionError, SyntaxError) as error:  # SyntaxError: nested deeper than Python compiles
            self.compile_error = _format_error(error)

    def render(self, messages: list[ChatMessage]) -> str:
        """Returns the text up to the start of the assistant's answer; raises HttpError."""
        if self._template is None:
            raise HttpError(400, f"The chat template of this model cannot be used: {self.compile_error}.")
        variables = {"messages": [message._asdict() for message in messages], "add_generation_prompt": True}
        try:
            return _render_bounded(self._template, variables | self._special_tokens)
        except Exception as error:  # a template can raise anything; the client gets the reason
            reason = _format_error(error)
        raise HttpError(400, f"The chat template of this model does not accept these messages: {reason}.")


def _render_bounded(template: Template, variables: dict[str, Any]) -> str:
    line_limit = _LineLimit()
    previous_trace = sys.gettrace()
    pieces, length = [], 0
    sys.settrace(line_limit.count_line)  # in this thread only: jinja2 itself cannot end a loop
    try:
        for piece in template.generate(variables):
            length += len(piece)
            if length > MAX_TEXT_LENGTH:
                raise TemplateError(f"its text is longer than {MAX_TEXT_LENGTH} characters")
            pieces.append(piece)
    finally:
        sys.settrace(previous_trace)
    return "".join(pieces)


class _LineLimit:
    """Counts executed lines, and raises after too many."""

    def __init__(self) -> None:
        self._remaining = MAX_LINES

    def count_line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        """Counts one event, as a trace function. https://docs.python.org/3/library/sys.html#sys.settrace"""
        self._remaining -= 1
        if self._remaining < 0:
            raise TemplateError("it does not come to an end")
        return self.count_line


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, without operations that create a large value at once."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes products and powers; raises TemplateError if the result may be large."""
        sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
        is_small = all(isinstance(size, int | float) and abs(size) <= 1 << 16 for size in sizes)
        if not is_small or (operator == "**" and abs(sizes[1]) > 64):
            raise TemplateError(f"{operator} of values this large is not allowed")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  jinja2's signature
        """Calls functions and methods; raises TemplateError if an argument is a large number."""
        if any(isinstance(value, int) and abs(value) > MAX_TEXT_LENGTH for value in (*args, *kwargs.values())):
            raise TemplateError("a number this large is not allowed in a call")
        return super().call(__context, __obj, *args, **kwargs)


def _create_environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(value: Any, indent: int | None = None) -> str:
    """Renders plain JSON: the filter of jinja2 escapes it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _format_error(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    message = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    return message if line is None else f"line {line}: {message}"
