"""
warm_up: one request with the longest prompt that is served, to an engine that is cold and has no traffic.

Many engines allocate their KV cache and scratch buffers only with the first request, so the first user may run out of
memory; compiled kernels and page tables wait for it too. Off for every engine that is not named.
https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.actions import ActionContext, FailedError, Http, Plan, RefusedError, Task, _engine

TARGET = ("engine",)
NAMED = True
NEEDS = "`/v1/completions`"
REQUEST_TIMEOUT = 100.0  # seconds: a long prompt on processors
_PROMPT_WORD = " a"  # one token in most vocabularies, two in some: the first answer gives the count
_PROBE_WORDS = 64  # words of the first request


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The one request that is sent."""

    prompt_tokens: int | None = None
    """The length of the prompt, where the engine does not report its longest context."""
    max_tokens: int = 8
    """The most tokens of the answer."""
    model: str | None = None
    """The model, if not the first of /v1/models."""
    token_file: str | None = None
    """A file whose content is sent as a bearer token."""


class _Model(msgspec.Struct):
    """A model of /v1/models; max_model_len is vLLM's and SGLang's."""

    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Usage(msgspec.Struct):
    prompt_tokens: int


class _Completion(msgspec.Struct):
    usage: _Usage


def describe(task: Task) -> str:
    """Describes the action for people."""
    length = f"{task.own.prompt_tokens} tokens" if task.own.prompt_tokens else "its longest context"
    return f"sends engine {task.target['engine']} one prompt of {length} while it is cold and idle"


def resource(task: Task) -> str:
    """Names the engine's first request."""
    return f"warmth of engine {task.target['engine']}"


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if fault := _engine.check_engine_target(task):
        yield fault
    if task.own.prompt_tokens is not None and not 1 <= task.own.prompt_tokens <= 1 << 20:
        yield "prompt_tokens: expected 1 to 1048576"
    if not 1 <= task.own.max_tokens <= 1024:
        yield "max_tokens: expected 1 to 1024"


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses if the engine is warm, has traffic, or does not report the longest prompt."""
    _engine.refuse_unless_cold(task, context)
    _engine.refuse_unless_idle(task, context)
    model = _select_model(task, context)
    max_prompt = None if model.max_model_len is None else model.max_model_len - task.own.max_tokens
    requested = task.own.prompt_tokens or max_prompt
    if requested is None:
        raise RefusedError("the engine does not report its longest context; give parameters: {prompt_tokens: N}")
    tokens = requested if max_prompt is None else min(requested, max_prompt)
    return Plan(None, {"model": model.id, "tokens": tokens}, f"a prompt of about {tokens:,} tokens to {model.id}")


def do(task: Task, plan: Plan, context: ActionContext) -> str:
    """Checks again that the engine is idle, measures the tokens of a word, and sends the long prompt."""
    _engine.refuse_unless_idle(task, context)
    tokens, probe_words = int(plan.wanted["tokens"]), min(_PROBE_WORDS, int(plan.wanted["tokens"]) // 4 or 1)
    probe_tokens = _complete_prompt(task, context, plan.wanted["model"], probe_words, 1)
    words = max(1, tokens * probe_words // max(probe_words, probe_tokens))
    prompt_tokens = _complete_prompt(task, context, plan.wanted["model"], words, task.own.max_tokens)
    return f"answered a prompt of {prompt_tokens:,} tokens"


def _select_model(task: Task, context: ActionContext) -> _Model:
    answer = _send_request(task, context, "GET", "/v1/models")
    try:
        models = msgspec.json.decode(answer.body, type=_Models).data
    except msgspec.MsgspecError:
        raise RefusedError(f"engine {task.target['engine']} does not report its models: HTTP {answer.status}") from None
    matching = [model for model in models if task.own.model in (None, model.id)]
    if not matching:
        available = ", ".join(model.id for model in models) or "none"
        raise RefusedError(f"engine {task.target['engine']} has no model {task.own.model!r}; there are: {available}")
    return matching[0]


def _complete_prompt(task: Task, context: ActionContext, model: str, words: int, max_tokens: int) -> int:
    """Sends a prompt and returns its number of tokens."""
    body = msgspec.json.encode({"model": model, "prompt": _PROMPT_WORD * words, "max_tokens": max_tokens})
    answer = _send_request(task, context, "POST", "/v1/completions", body)
    if answer.status // 100 != 2:
        raise FailedError(f"HTTP {answer.status}: {answer.body[:200].strip()}")
    try:
        return msgspec.json.decode(answer.body, type=_Completion).usage.prompt_tokens
    except msgspec.MsgspecError:
        raise FailedError("the engine does not report the tokens of a prompt (usage.prompt_tokens)") from None


def _send_request(task: Task, context: ActionContext, method: str, path: str, body: bytes | None = None) -> Http:
    headers = {"Content-Type": "application/json"}
    if task.own.token_file is not None:
        headers["Authorization"] = f"Bearer {context.token(task.own.token_file)}"
    url = task.engines[task.target["engine"]].rstrip("/") + path
    return context.http(method, url, body, headers, REQUEST_TIMEOUT)
