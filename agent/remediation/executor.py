"""Runs actions: in one daemon thread for each act, with a deadline, so that no action delays a tick."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from agent.actions import Action, ActionContext, ActionError, ChangedError, FailedError, Plan, RefusedError, Task
from agent.remediation.model import Act, Event, EventKind
from agent.runtime.errors import describe_fault
from agent.runtime.threads import make_loop_callback

DEADLINE = 120.0  # seconds: dropping the cache of a terabyte takes a minute

Job = Callable[[], Event]


class ActionExecutor:
    """The threads of all acts."""

    def __init__(self, deliver: Callable[[Event], None]) -> None:
        """`deliver` is called on the event loop."""
        self._deliver = deliver
        self._threads: dict[int, tuple[object, threading.Thread]] = {}
        self._deadlines: dict[int, tuple[float, object]] = {}

    def is_busy(self, act: int) -> bool:
        """True while a thread runs for this act, even one past its deadline: two writers must never overlap."""
        entry = self._threads.get(act)
        return entry is not None and (act in self._deadlines or entry[1].is_alive())

    def run(self, act: int, job: Job, now: float) -> bool:
        """Starts a job; False while the act has another. `now` is monotonic."""
        if self.is_busy(act):
            return False
        token = object()
        settle = make_loop_callback(self._settle_job)

        def run_job() -> None:
            settle(token, job())

        self._deadlines[act] = (now + DEADLINE, token)
        thread = threading.Thread(target=run_job, name=f"act {act}", daemon=True)
        self._threads[act] = (token, thread)
        thread.start()
        return True

    def _settle_job(self, token: object, event: Event) -> None:
        # The job has ended: its thread is forgotten now, or it could delay the next job until it is gone.
        if self._threads.get(event.act, (None,))[0] is token:
            del self._threads[event.act]
        if (
            self._deadlines.get(event.act, (0.0, None))[1] is token
        ):  # else the deadline has passed, and UNKNOWN was delivered
            del self._deadlines[event.act]
            self._deliver(event)

    def expire_jobs(self, now: float) -> None:
        """Gives up jobs past their deadline; their outcome is unknown."""
        for act, (deadline, _) in list(self._deadlines.items()):
            if now > deadline:
                del self._deadlines[act]
                self._deliver(Event(act, EventKind.UNKNOWN, f"no end within {DEADLINE:g} s"))

    @property
    def has_pending(self) -> bool:
        """True while a job is expected to end."""
        return bool(self._deadlines)


def make_plan_job(
    act: Act, action: Action, task: Task, context: ActionContext, missing_reason: Callable[[], str]
) -> Job:
    """Returns a job that plans and touches nothing; `missing_reason` says why the hand cannot do the action."""

    def job() -> Event:
        try:
            if reason := missing_reason():
                raise RefusedError(reason)
            plan = action.plan(task, context)
            return Event(act.id, EventKind.INTENDED, plan.says, to_json(plan.prior), to_json(plan.wanted))
        except RefusedError as error:
            return Event(act.id, EventKind.REFUSED, str(error))
        except Exception as error:  # whatever a plan raises, nothing has been touched
            return Event(act.id, EventKind.FAILED, _describe_error(error))

    return job


def make_do_job(
    act: Act, action: Action, task: Task, context: ActionContext, target_value: Any, success_kind: EventKind
) -> Job:
    """Returns a job that writes and reads back; its event is `success_kind` if that succeeded."""

    def job() -> Event:
        try:
            value = action.do(task, restore_plan(act, target_value), context)
        except ChangedError as error:
            return Event(act.id, EventKind.CHANGED, str(error))
        except FailedError as error:
            return Event(act.id, EventKind.FAILED, str(error))
        except RefusedError as error:  # at its second check, before it wrote anything
            return Event(act.id, EventKind.REFUSED if success_kind is EventKind.DID else EventKind.FAILED, str(error))
        except Exception as error:  # it may have been done, or not
            return Event(act.id, EventKind.UNKNOWN, _describe_error(error))
        detail = "" if action.REVERSIBLE else str(value)
        return Event(act.id, success_kind, detail, value=to_json(value))

    return job


def make_undo_job(act: Act, action: Action, task: Task, context: ActionContext, untouched: float) -> Job:
    """Returns a job that undoes an act while its value is still ours; `untouched`: seconds since its last renewal."""

    def job() -> Event:
        try:
            action.undo(task, restore_plan(act, None)._replace(untouched=untouched), context)
        except ChangedError as error:
            return Event(act.id, EventKind.CHANGED, f"{error}; left unchanged")
        except Exception as error:  # tried again: undoing twice is the same as once
            return Event(act.id, EventKind.FAILED, _describe_error(error))
        return Event(act.id, EventKind.RESTORED)

    return job


def restore_plan(act: Act, target_value: Any) -> Plan:
    """Restores the plan of an act from the journal."""
    prior = None if act.prior is None else json.loads(act.prior)
    return Plan(prior, target_value, "", tuple(json.loads(encoded) for encoded in act.ours))


def to_json(value: Any) -> str:
    """Encodes a value for the journal; equal values give equal texts."""
    return json.dumps(value, sort_keys=True)


def _describe_error(error: Exception) -> str:
    return str(error) if isinstance(error, ActionError) else describe_fault(error)
