"""Where actions run: a daemon thread for each act, one at a time, with a deadline; none can make a tick late."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from agent.actions import Action, ActionContext, ActionError, ChangedError, FailedError, Plan, RefusedError, Task
from agent.remediation.model import Act, Event, EventKind
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
        """Whether an act has a thread, were it one whose time is up: what it may still do must not meet another."""
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
        # It has said its last word: were its thread counted until it is gone, the next job could come too early for it.
        if self._threads.get(event.act, (None,))[0] is token:
            del self._threads[event.act]
        if self._deadlines.get(event.act, (0.0, None))[1] is token:  # else its time was up, and that has been told
            del self._deadlines[event.act]
            self._deliver(event)

    def expire_jobs(self, now: float) -> None:
        """Gives up what is over its deadline: nobody knows what becomes of it."""
        for act, (deadline, _) in list(self._deadlines.items()):
            if now > deadline:
                del self._deadlines[act]
                self._deliver(Event(act, EventKind.UNKNOWN, f"no end within {DEADLINE:g} s"))

    @property
    def has_pending(self) -> bool:
        """Whether anything is still expected."""
        return bool(self._deadlines)


def plan_job(act: Act, action: Action, task: Task, context: ActionContext, missing_reason: Callable[[], str]) -> Job:
    """Looks, and touches nothing; `missing` says why the hand cannot do it."""

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


def do_job(
    act: Act, action: Action, task: Task, context: ActionContext, target_value: Any, success_kind: EventKind
) -> Job:
    """Writes and reads back; `done` is what it is called when that went well."""

    def job() -> Event:
        try:
            value = action.do(task, restore_plan(act, target_value), context)
        except ChangedError as error:
            return Event(act.id, EventKind.CHANGED, str(error))
        except FailedError as error:
            return Event(act.id, EventKind.FAILED, str(error))
        except RefusedError as error:  # at its second look, before it wrote anything
            return Event(act.id, EventKind.REFUSED if success_kind is EventKind.DID else EventKind.FAILED, str(error))
        except Exception as error:  # it may have been done, or not
            return Event(act.id, EventKind.UNKNOWN, _describe_error(error))
        detail = "" if action.REVERSIBLE else str(value)
        return Event(act.id, success_kind, detail, value=to_json(value))

    return job


def undo_job(act: Act, action: Action, task: Task, context: ActionContext, untouched: float) -> Job:
    """Puts back what is still ours; `untouched`: for how many seconds nobody has renewed it."""

    def job() -> Event:
        try:
            action.undo(task, restore_plan(act, None)._replace(untouched=untouched), context)
        except ChangedError as error:
            return Event(act.id, EventKind.CHANGED, f"{error}; hands off")
        except Exception as error:  # tried again: to put back twice is to put back
            return Event(act.id, EventKind.FAILED, _describe_error(error))
        return Event(act.id, EventKind.RESTORED)

    return job


def restore_plan(act: Act, target_value: Any) -> Plan:
    """The plan that the journal has of an act."""
    prior = None if act.prior is None else json.loads(act.prior)
    return Plan(prior, target_value, "", tuple(json.loads(encoded) for encoded in act.ours))


def to_json(value: Any) -> str:
    """A value as the journal has it; equal values are equal texts."""
    return json.dumps(value, sort_keys=True)


def _describe_error(error: Exception) -> str:
    return str(error) if isinstance(error, ActionError) else f"{type(error).__name__}: {error}"
