"""
warm_up: one request with the longest prompt that is served, to an engine that is cold and has no traffic.

Many engines take the memory of their KV cache and their scratch buffers only with the first request, so the first user
may be the one for whom memory runs out; and compiled kernels and page tables wait for it too. Off for every engine
that is not named. https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.actions import FailedError, Http, Moment, Plan, Reach, RefusedError, Task, _engine

TARGET = ("engine",)
REVERSIBLE = False
TTL = None
NAMED = True
VERBS: tuple[str, ...] = ()
PATIENCE = 100.0  # seconds: a long prompt on processors
_WORD = " a"  # one token in most vocabularies, two in some: the first answer says which
_FEW = 64  # words of the first request


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The one request that is sent."""

    prompt_tokens: int | None = None
    """Its length, where the engine does not say its longest context."""
    max_tokens: int = 8
    """Asked for."""
    model: str | None = None
    """Where the first of /v1/models is not meant."""
    token_file: str | None = None
    """A file whose content is sent as a bearer token."""


class _Model(msgspec.Struct):
    """What /v1/models says of a model; max_model_len is vLLM's and SGLang's."""

    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Usage(msgspec.Struct):
    prompt_tokens: int


class _Answer(msgspec.Struct):
    usage: _Usage


def describe(task: Task) -> str:
    """What it does, in words."""
    length = f"{task.own.prompt_tokens} tokens" if task.own.prompt_tokens else "its longest context"
    return f"sends engine {task.target['engine']} one prompt of {length} while it is cold and idle"


def resource(task: Task) -> str:
    """The engine's first request."""
    return f"warmth of engine {task.target['engine']}"


def strength(task: Task) -> float:
    """It holds nothing."""
    return 0.0


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if fault := _engine.fault(task):
        yield fault
    if task.own.prompt_tokens is not None and not 1 <= task.own.prompt_tokens <= 1 << 20:
        yield "prompt_tokens: expected 1 to 1048576"
    if not 1 <= task.own.max_tokens <= 1024:
        yield "max_tokens: expected 1 to 1024"


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses where the engine is warm, has traffic, or does not say how long a prompt may be."""
    _engine.refuse_unless_cold(task, reach)
    _engine.refuse_unless_idle(task, reach)
    model = _model(task, reach)
    longest = None if model.max_model_len is None else model.max_model_len - task.own.max_tokens
    wished = task.own.prompt_tokens or longest
    if wished is None:
        raise RefusedError("the engine does not say its longest context; give parameters: {prompt_tokens: N}")
    tokens = wished if longest is None else min(wished, longest)
    return Plan(None, {"model": model.id, "tokens": tokens}, f"a prompt of about {tokens:,} tokens to {model.id}")


def do(task: Task, plan: Plan, reach: Reach) -> str:
    """Looks once more whether anybody came meanwhile, asks how long a word is in tokens, and sends the long prompt."""
    _engine.refuse_unless_idle(task, reach)
    tokens, few = int(plan.wanted["tokens"]), min(_FEW, int(plan.wanted["tokens"]) // 4 or 1)
    short = _completed(task, reach, plan.wanted["model"], few, 1)
    words = max(1, tokens * few // max(few, short))
    return f"answered a prompt of {_completed(task, reach, plan.wanted['model'], words, task.own.max_tokens):,} tokens"


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """Warm is warm."""


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    """It holds nothing."""
    return memory, moment.held


def _model(task: Task, reach: Reach) -> _Model:
    answer = _ask(task, reach, "GET", "/v1/models")
    try:
        models = msgspec.json.decode(answer.body, type=_Models).data
    except msgspec.MsgspecError:
        raise RefusedError(f"engine {task.target['engine']} does not tell its models: HTTP {answer.status}") from None
    named = [model for model in models if task.own.model in (None, model.id)]
    if not named:
        there = ", ".join(model.id for model in models) or "none"
        raise RefusedError(f"engine {task.target['engine']} has no model {task.own.model!r}; there are: {there}")
    return named[0]


def _completed(task: Task, reach: Reach, model: str, words: int, max_tokens: int) -> int:
    """How many tokens the prompt of an answered request had."""
    body = msgspec.json.encode({"model": model, "prompt": _WORD * words, "max_tokens": max_tokens})
    answer = _ask(task, reach, "POST", "/v1/completions", body)
    if answer.status // 100 != 2:
        raise FailedError(f"HTTP {answer.status}: {answer.body[:200].strip()}")
    try:
        return msgspec.json.decode(answer.body, type=_Answer).usage.prompt_tokens
    except msgspec.MsgspecError:
        raise FailedError("the engine does not tell how many tokens a prompt had (usage.prompt_tokens)") from None


def _ask(task: Task, reach: Reach, method: str, path: str, body: bytes | None = None) -> Http:
    headers = {"Content-Type": "application/json"}
    if task.own.token_file is not None:
        headers["Authorization"] = f"Bearer {reach.token(task.own.token_file)}"
    url = task.engines[task.target["engine"]].rstrip("/") + path
    return reach.http(method, url, body, headers, PATIENCE)
