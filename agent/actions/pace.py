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

from agent.actions import ActionContext, ChangedError, FailedError, Moment, Plan, RefusedError, Steered, Task, read_only
from agent.actions._controller import PaceController, update_controller
from agent.actions._duty import FULL_DUTY, steer_fixed_duty
from agent.pacing import inputs, settings
from agent.pacing.settings import ControlSettings

TARGET = ("engine", "url")
REVERSIBLE = True
TTL = 30.0
NEEDS = "`PUT /pace`"
_DUTY_SAMPLE = re.compile(r"^steadytok_\w*?_?duty(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_DUTY_TOLERANCE = 0.005  # of two duties that are the same


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine is held back, and with which credential."""

    duty: float = 0.7
    """Share of the time that the engine may work, 0.1 to 1; with `control` the one to begin with."""
    control: ControlSettings | None = None
    """Moves the duty so that the hottest DIMM stays at a set point; `{}` for the defaults."""
    token_file: str | None = None
    """The engine's credential where it is not the agent's own."""


@dataclass(frozen=True)
class PaceControllers(Steered):
    """The controller of each remedy that claims the engine."""

    by_remedy: Mapping[str, PaceController]


def describe(task: Task) -> str:
    """What it does, in words."""
    if task.own.control is None:
        return f"holds {_describe_target(task)} at a duty of {task.own.duty:g}"
    return (
        f"paces {_describe_target(task)} so that the hottest DIMM stays {task.own.control.margin:g} °C below its limit"
    )


def resource(task: Task) -> str:
    """The engine's pace."""
    return f"pace {_describe_target(task)}"


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
        yield from settings.check_settings(task.own.control)


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses where somebody else paces the engine already (their lease cannot be put back), or it would not pay."""
    current = _read_duty(task, context)
    if current is not None and current < FULL_DUTY - _DUTY_TOLERANCE:
        raise RefusedError(f"{_describe_target(task)} is paced already, to a duty of {current:g}, and not by us")
    duty = _choose_initial_duty(task, context)
    return Plan(FULL_DUTY, duty, f"{_describe_target(task)} from full speed to a duty of {duty:g}")


def _choose_initial_duty(task: Task, context: ActionContext) -> float:
    """The duty to begin with: the predicted one where there is a prediction and a controller that asks for it."""
    control = task.own.control
    paced_share, throttled_share, pays = (
        (None, None, None) if control is None else inputs.read_prediction(context.query, _engine_name(task))
    )
    if control is None or paced_share is None or throttled_share is None:
        return float(task.own.duty)
    if pays == 0 and not control.always:
        raise RefusedError(
            f"{_describe_target(task)} needs air, not pacing: holding the hottest DIMM {control.margin:g} °C "
            "below its limit "
            f"would leave {paced_share:.0%} of its speed, the firmware's throttling leaves {throttled_share:.0%}"
        )
    return round(min(0.99, max(float(control.lowest), paced_share)), 2)


def do(task: Task, plan: Plan, context: ActionContext) -> float:
    """Takes or renews the lease, unless somebody else has set a duty meanwhile."""
    read_only(lambda: _is_ours(task, plan, context))
    _put_pace(task, plan.wanted, TTL, context)
    reported = _read_duty(task, context)
    if reported is not None and abs(reported - plan.wanted) > _DUTY_TOLERANCE:
        raise FailedError(f"{_describe_target(task)} was told a duty of {plan.wanted:g} and says {reported:g}")
    return float(plan.wanted)


def undo(task: Task, plan: Plan, context: ActionContext) -> None:
    """Full speed again; an engine that nobody finds any more has ended its lease by itself, once the ttl is over."""
    try:
        still_ours = read_only(lambda: _is_ours(task, plan, context))
    except FailedError:
        if plan.untouched <= TTL:
            raise
        return
    if still_ours:
        _put_pace(task, plan.prior, 1.0, context)


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, float]:
    """
    The duty now, and what to remember: the lowest that any claim on the engine asks for.

    One with a controller asks for what that says, another for its own duty or, its evidence lost, for SAFE.
    """
    previous = memory.by_remedy if isinstance(memory, PaceControllers) else {}
    updated = {
        claimant.remedy: _update_controller(claimant, previous.get(claimant.remedy), moment)
        for claimant in (task, *moment.beside)
    }
    controllers = {name: controller for name, controller in updated.items() if controller is not None}
    fixed_duties = [
        steer_fixed_duty(float(claimant.own.duty), moment)
        for claimant in (task, *moment.beside)
        if claimant.own.control is None
    ]
    duty = min([*fixed_duties, *(controller.state.duty for controller in controllers.values())])
    if not controllers:
        return None, duty
    strictest = min(controllers.values(), key=lambda controller: controller.state.duty)
    return PaceControllers(strictest.reason, strictest.says, controllers), duty


def _update_controller(task: Task, previous: PaceController | None, moment: Moment) -> PaceController | None:
    if task.own.control is None:
        return None

    def read_inputs() -> inputs.ControlInputs:
        return inputs.read_inputs(moment.query, _engine_name(task))

    held_duty = float(moment.held)
    return update_controller(
        previous, held_duty, moment.now_ms, task.own.control, _describe_target(task), read_inputs, lost=moment.lost
    )


def _is_ours(task: Task, plan: Plan, context: ActionContext) -> bool:
    """Whether the engine is held by us, or perhaps; False where it runs at full speed. ChangedError."""
    current = _read_duty(task, context)
    if current is None or any(abs(current - written_duty) <= _DUTY_TOLERANCE for written_duty in plan.ours):
        return True
    if current < FULL_DUTY - _DUTY_TOLERANCE:
        raise ChangedError(f"{_describe_target(task)} was set to a duty of {current:g} by someone else")
    return False


def _read_duty(task: Task, context: ActionContext) -> float | None:
    """The duty that the engine shows, None where it shows none."""
    answer = context.http("GET", f"{_engine_url(task)}/metrics")
    duties = [float(text) for text in _DUTY_SAMPLE.findall(answer.body)] if answer.status == 200 else []
    return min(duties, default=None)


def _put_pace(task: Task, duty: float, ttl: float, context: ActionContext) -> None:
    body = json.dumps({"duty": duty, "ttl": f"{ttl:g}s"}).encode()
    token = context.token(task.own.token_file)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = context.http("PUT", f"{_engine_url(task)}/pace", body, headers)
    if answer.status == 404:
        raise FailedError(
            f"{_describe_target(task)} has no PUT /pace; name a gateway in front of it with target: {{url: …}}"
        )
    if answer.status // 100 != 2:
        raise FailedError(
            f"{_describe_target(task)} refused the pace: HTTP {answer.status}: {answer.body[:200].strip()}"
        )


def _engine_url(task: Task) -> str:
    return (task.target.get("url") or task.engines[task.target["engine"]]).rstrip("/")


def _engine_name(task: Task) -> str:
    """Its name among the engines; none for a gateway."""
    return task.target.get("engine", "")


def _describe_target(task: Task) -> str:
    return f"engine {task.target['engine']}" if "engine" in task.target else task.target.get("url", "?")
