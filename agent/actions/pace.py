"""
pace: holds an engine back by PUT /pace, a lease that the agent renews and that ends by itself.

Duty is the share of wall time that may be spent in forward passes: memory power follows bytes streamed per second, so
fewer passes cool and fewer clients do not. https://www.jedec.org (JESD79-4: refresh doubles above 85 °C)
It is fixed, or with `control` what keeps the hottest DIMM at a set point (agent/pacing).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.actions import ChangedError, FailedError, Moment, Plan, Reach, RefusedError, Steered, Task, _looking
from agent.actions._controller import Steering, looked
from agent.pacing import inputs, settings
from agent.pacing.settings import Terms

TARGET = ("engine", "url")
REVERSIBLE = True
TTL = 30.0
VERBS: tuple[str, ...] = ()
SAFE = 0.5  # the duty that a fixed pace without evidence falls to
RAMP = 0.02  # how far it goes at each step: from full speed to SAFE in half a minute of ticks
FULL = 1.0
_DUTY = re.compile(r"^steadytok_\w*?_?duty(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_CLOSE = 0.005  # of two duties that are the same


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine is held back, and with which credential."""

    duty: float = 0.7
    """Share of the time that the engine may work, 0.1 to 1; with `control` the one to begin with."""
    control: Terms | None = None
    """Moves the duty so that the hottest DIMM stays at a set point; `{}` for the defaults."""
    token_file: str | None = None
    """The engine's credential where it is not the agent's own."""


@dataclass(frozen=True)
class Controllers(Steered):
    """The controller of each remedy that claims the engine."""

    by_remedy: Mapping[str, Steering]


def describe(task: Task) -> str:
    """What it does, in words."""
    if task.own.control is None:
        return f"holds {_name(task)} at a duty of {task.own.duty:g}"
    return f"paces {_name(task)} so that the hottest DIMM stays {task.own.control.margin:g} °C below its limit"


def resource(task: Task) -> str:
    """The engine's pace."""
    return f"pace {_name(task)}"


def strength(task: Task) -> float:
    """The lowest duty wins."""
    return float(task.own.duty)


def faults(task: Task) -> Iterable[str]:
    """What is wrong with target and parameters."""
    if ("engine" in task.target) == ("url" in task.target):
        yield "target: expected engine: NAME, or url: http://HOST:PORT of a gateway"
    elif "engine" in task.target and task.target["engine"] not in task.engines:
        yield f"target.engine: no engine is named {task.target['engine']!r} under engines:"
    if not 0.1 <= task.own.duty < 1:
        yield "duty: expected 0.1 or more, and less than 1"
    if task.own.control is not None:
        yield from settings.faults(task.own.control)


def plan(task: Task, reach: Reach) -> Plan:
    """Refuses where somebody else paces the engine already (their lease cannot be put back), or it would not pay."""
    now = _now(task, reach)
    if now is not None and now < FULL - _CLOSE:
        raise RefusedError(f"{_name(task)} is paced already, to a duty of {now:g}, and not by us")
    duty = _first(task, reach)
    return Plan(FULL, duty, f"{_name(task)} from full speed to a duty of {duty:g}")


def _first(task: Task, reach: Reach) -> float:
    """The duty to begin with: the predicted one where there is a prediction and a controller that asks for it."""
    control = task.own.control
    held, left, pays = (None, None, None) if control is None else inputs.predicted(reach.query, _engine(task))
    if control is None or held is None or left is None:
        return float(task.own.duty)
    if pays == 0 and not control.always:
        raise RefusedError(
            f"{_name(task)} needs air, not pacing: holding the hottest DIMM {control.margin:g} °C below its limit "
            f"would leave {held:.0%} of its speed, the firmware's throttling leaves {left:.0%}"
        )
    return round(min(0.99, max(float(control.lowest), held)), 2)


def do(task: Task, plan: Plan, reach: Reach) -> float:
    """Takes or renews the lease, unless somebody else has set a duty meanwhile."""
    _looking.first(lambda: _look_again(task, plan, reach))
    _put(task, plan.wanted, TTL, reach)
    now = _now(task, reach)
    if now is not None and abs(now - plan.wanted) > _CLOSE:
        raise FailedError(f"{_name(task)} was told a duty of {plan.wanted:g} and says {now:g}")
    return float(plan.wanted)


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    """Full speed again; an engine that nobody finds any more has ended its lease by itself, once the ttl is over."""
    try:
        held = _looking.first(lambda: _look_again(task, plan, reach))
    except FailedError:
        if plan.untouched <= TTL:
            raise
        return
    if held:
        _put(task, plan.prior, 1.0, reach)


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, float]:
    """
    The duty now, and what to remember: the lowest that any claim on the engine asks for.

    One with a controller asks for what that says, another for its own duty or, its evidence lost, for SAFE.
    """
    before = memory.by_remedy if isinstance(memory, Controllers) else {}
    after = {each.remedy: _looked(each, before.get(each.remedy), moment) for each in (task, *moment.beside)}
    found = {name: steering for name, steering in after.items() if steering is not None}
    fixed = [_fixed(each, moment) for each in (task, *moment.beside) if each.own.control is None]
    duty = min([*fixed, *(steering.state.duty for steering in found.values())])
    if not found:
        return None, duty
    strictest = min(found.values(), key=lambda steering: steering.state.duty)
    return Controllers(strictest.reason, strictest.says, found), duty


def _looked(task: Task, before: Steering | None, moment: Moment) -> Steering | None:
    if task.own.control is None:
        return None

    def see() -> inputs.Seen:
        return inputs.seen(moment.query, _engine(task))

    held = float(moment.held)
    return looked(before, held, moment.now_ms, task.own.control, _name(task), see, lost=moment.lost)


def _fixed(task: Task, moment: Moment) -> float:
    """As configured; without evidence down to SAFE by steps, and never up: what a lower duty held is still hot."""
    held, duty = float(moment.held), float(task.own.duty)
    return round(max(min(held, SAFE), held - RAMP), 4) if moment.lost else duty


def _look_again(task: Task, plan: Plan, reach: Reach) -> bool:
    """Whether the engine is held by us, or perhaps; False where it runs at full speed. ChangedError."""
    now = _now(task, reach)
    if now is None or any(abs(now - one) <= _CLOSE for one in plan.ours):
        return True
    if now < FULL - _CLOSE:
        raise ChangedError(f"{_name(task)} was set to a duty of {now:g} by someone else")
    return False


def _now(task: Task, reach: Reach) -> float | None:
    """The duty that the engine shows, None where it shows none."""
    answer = reach.http("GET", f"{_url(task)}/metrics")
    found = [float(text) for text in _DUTY.findall(answer.body)] if answer.status == 200 else []
    return min(found, default=None)


def _put(task: Task, duty: float, ttl: float, reach: Reach) -> None:
    body = json.dumps({"duty": duty, "ttl": f"{ttl:g}s"}).encode()
    token = reach.token(task.own.token_file)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = reach.http("PUT", f"{_url(task)}/pace", body, headers)
    if answer.status == 404:
        raise FailedError(f"{_name(task)} has no PUT /pace; name a gateway in front of it with target: {{url: …}}")
    if answer.status // 100 != 2:
        raise FailedError(f"{_name(task)} refused the pace: HTTP {answer.status}: {answer.body[:200].strip()}")


def _url(task: Task) -> str:
    return (task.target.get("url") or task.engines[task.target["engine"]]).rstrip("/")


def _engine(task: Task) -> str:
    """Its name among the engines; none for a gateway."""
    return task.target.get("engine", "")


def _name(task: Task) -> str:
    return f"engine {task.target['engine']}" if "engine" in task.target else task.target.get("url", "?")
