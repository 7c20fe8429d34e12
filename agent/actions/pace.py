"""
pace: holds an engine back by PUT /pace, a lease that the agent renews and that ends by itself.

Duty is the share of wall time that may be spent in forward passes: memory power follows bytes streamed per second, so
fewer passes cool the DIMMs. Fewer clients do not, since each pass streams the weights whatever its batch. The duty is
fixed, or with `control` a controller keeps the hottest DIMM at a set point (agent/pacing).
https://www.jedec.org (JESD79-4: refresh doubles above 85 °C)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.actions import ActionContext, ChangedError, FailedError, Moment, Plan, RefusedError, Steered, Task, read_only
from agent.actions._controller import PaceController, update_controller
from agent.actions._duty import FULL_DUTY, steer_fixed_duty
from agent.actions._pace_endpoint import describe_target, engine_name, put_pace, read_duty
from agent.pacing import inputs
from agent.pacing.settings import ControlSettings, check_settings

TARGET = ("engine", "url")
REVERSIBLE = True
TTL = 30.0
HOLDS_DUTY = True
NEEDS = "`PUT /pace`"
_DUTY_TOLERANCE = 0.005  # two duties closer than this are the same


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine is held back, and with which credential."""

    duty: float = 0.7
    """Share of the time that the engine may work, 0.1 to 1; with `control` the duty to begin with."""
    control: ControlSettings | None = None
    """Moves the duty so that the hottest DIMM stays at a set point; `{}` for the defaults."""
    token_file: str | None = None
    """A file whose content is sent as a bearer token; without it requests are signed with the file `pace_token`."""


@dataclass(frozen=True)
class PaceControllers(Steered):
    """The controller of each remedy that claims the engine."""

    by_remedy: Mapping[str, PaceController]


def describe(task: Task) -> str:
    """Describes the action for people."""
    if task.own.control is None:
        return f"holds {describe_target(task)} at a duty of {task.own.duty:g}"
    return (
        f"paces {describe_target(task)} so that the hottest DIMM stays {task.own.control.margin:g} °C below its limit"
    )


def resource(task: Task) -> str:
    """Names the engine's pace."""
    return f"pace {describe_target(task)}"


def strength(task: Task) -> float:
    """The lowest duty wins."""
    return float(task.own.duty)


def faults(task: Task) -> Iterable[str]:
    """Checks target and parameters."""
    if ("engine" in task.target) == ("url" in task.target):
        yield "target: expected engine: NAME, or url: http://HOST:PORT of a gateway"
    elif "engine" in task.target and task.target["engine"] not in task.engines:
        yield f"target.engine: no engine is named {task.target['engine']!r} under engines:"
    if not 0.1 <= task.own.duty < 1:
        yield "duty: expected 0.1 or more, and less than 1"
    if task.own.control is not None:
        yield from check_settings(task.own.control)


def control_settings(task: Task) -> ControlSettings | None:
    """Returns the settings of the controller; None at a fixed duty."""
    settings: ControlSettings | None = task.own.control
    return settings


def plan(task: Task, context: ActionContext) -> Plan:
    """Refuses if someone else paces the engine (their lease cannot be restored), or if pacing would not pay."""
    current = read_duty(task, context)
    if current is not None and current < FULL_DUTY - _DUTY_TOLERANCE:
        raise RefusedError(f"{describe_target(task)} is paced already, to a duty of {current:g}, by another program")
    duty = _choose_initial_duty(task, context)
    return Plan(FULL_DUTY, duty, f"{describe_target(task)} from full speed to a duty of {duty:g}")


def _choose_initial_duty(task: Task, context: ActionContext) -> float:
    """Returns the predicted duty for a controller with a prediction, else the configured one."""
    control = task.own.control
    paced_share, throttled_share, pays = (
        (None, None, None) if control is None else inputs.read_prediction(context.query, engine_name(task))
    )
    if control is None or paced_share is None or throttled_share is None:
        return float(task.own.duty)
    if pays == 0 and not control.always:
        raise RefusedError(
            f"pacing would not help {describe_target(task)}: holding the hottest DIMM {control.margin:g} °C "
            "below its limit "
            f"would leave {paced_share:.0%} of its speed, the firmware's throttling leaves {throttled_share:.0%}"
        )
    return round(min(0.99, max(float(control.lowest), paced_share)), 2)


def do(task: Task, plan: Plan, context: ActionContext) -> float:
    """Takes or renews the lease, unless someone else has set a duty meanwhile."""
    read_only(lambda: _is_ours(task, plan, context))
    put_pace(task, plan.wanted, TTL, context)
    reported = read_duty(task, context)
    if reported is not None and abs(reported - plan.wanted) > _DUTY_TOLERANCE:
        raise FailedError(f"{describe_target(task)} was set to a duty of {plan.wanted:g} and reports {reported:g}")
    return float(plan.wanted)


def undo(task: Task, plan: Plan, context: ActionContext) -> None:
    """Restores full speed; the lease of an unreachable engine has ended by itself once the ttl is over."""
    try:
        still_ours = read_only(lambda: _is_ours(task, plan, context))
    except FailedError:
        if plan.untouched <= TTL:
            raise
        return
    if still_ours:
        put_pace(task, plan.prior, 1.0, context)


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, float]:
    """
    Returns the memory and the lowest duty of all claims on the engine.

    A claim with a controller has its controller's duty. A claim without one has its configured duty; while its evidence
    is lost, it approaches the safe duty.
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
        return inputs.read_inputs(moment.query, engine_name(task))

    held_duty = float(moment.held)
    return update_controller(
        previous, held_duty, moment.now_ms, task.own.control, describe_target(task), read_inputs, lost=moment.lost
    )


def _is_ours(task: Task, plan: Plan, context: ActionContext) -> bool:
    """True if we hold the engine, or may; False at full speed. ChangedError if someone else holds it."""
    current = read_duty(task, context)
    if current is None or any(abs(current - written_duty) <= _DUTY_TOLERANCE for written_duty in plan.ours):
        return True
    if current < FULL_DUTY - _DUTY_TOLERANCE:
        raise ChangedError(f"{describe_target(task)} was set to a duty of {current:g} by someone else")
    return False
