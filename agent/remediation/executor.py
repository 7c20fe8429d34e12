"""Where actions run: a daemon thread for each act, one at a time, with a deadline; none can make a tick late."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

from agent.actions import Action, ActionError, ChangedError, FailedError, Plan, Reach, RefusedError, Task
from agent.remediation.model import Act, Event, Kind

DEADLINE = 120.0  # seconds: dropping the cache of a terabyte takes a minute

Job = Callable[[], Event]


class Errands:
    """The threads of all acts."""

    def __init__(self, deliver: Callable[[Event], None]) -> None:
        """`deliver` is called on the event loop."""
        self._deliver = deliver
        self._threads: dict[int, tuple[object, threading.Thread]] = {}
        self._due: dict[int, tuple[float, object]] = {}

    def busy(self, act: int) -> bool:
        """Whether an act has a thread, were it one whose time is up: what it may still do must not meet another."""
        held = self._threads.get(act)
        return held is not None and (act in self._due or held[1].is_alive())

    def run(self, act: int, job: Job, now: float) -> bool:
        """Starts a job; False while the act has another. `now` is monotonic."""
        if self.busy(act):
            return False
        event_loop = asyncio.get_running_loop()
        token = object()

        def work() -> None:
            event = job()
            with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
                event_loop.call_soon_threadsafe(self._settle, token, event)

        self._due[act] = (now + DEADLINE, token)
        thread = threading.Thread(target=work, name=f"act {act}", daemon=True)
        self._threads[act] = (token, thread)
        thread.start()
        return True

    def _settle(self, token: object, event: Event) -> None:
        # It has said its last word: were its thread counted until it is gone, the next job could come too early for it.
        if self._threads.get(event.act, (None,))[0] is token:
            del self._threads[event.act]
        if self._due.get(event.act, (0.0, None))[1] is token:  # else its time was up, and that has been told
            del self._due[event.act]
            self._deliver(event)

    def expire(self, now: float) -> None:
        """Gives up what is over its deadline: nobody knows what becomes of it."""
        for act, (due, _) in list(self._due.items()):
            if now > due:
                del self._due[act]
                self._deliver(Event(act, Kind.UNKNOWN, f"no end within {DEADLINE:g} s"))

    @property
    def outstanding(self) -> bool:
        """Whether anything is still expected."""
        return bool(self._due)


def planning(act: Act, action: Action, task: Task, reach: Reach, missing: Callable[[], str]) -> Job:
    """Looks, and touches nothing; `missing` says why the hand cannot do it."""

    def job() -> Event:
        try:
            if why := missing():
                raise RefusedError(why)
            plan = action.plan(task, reach)
            return Event(act.id, Kind.INTENDED, plan.says, text(plan.prior), text(plan.wanted))
        except RefusedError as error:
            return Event(act.id, Kind.REFUSED, str(error))
        except Exception as error:  # whatever a plan raises, nothing has been touched
            return Event(act.id, Kind.FAILED, _said(error))

    return job


def doing(act: Act, action: Action, task: Task, reach: Reach, wanted: Any, done: Kind) -> Job:
    """Writes and reads back; `done` is what it is called when that went well."""

    def job() -> Event:
        try:
            value = action.do(task, plan_of(act, wanted), reach)
        except ChangedError as error:
            return Event(act.id, Kind.CHANGED, str(error))
        except FailedError as error:
            return Event(act.id, Kind.FAILED, str(error))
        except RefusedError as error:  # at its second look, before it wrote anything
            return Event(act.id, Kind.REFUSED if done is Kind.DID else Kind.FAILED, str(error))
        except Exception as error:  # it may have been done, or not
            return Event(act.id, Kind.UNKNOWN, _said(error))
        says = "" if action.REVERSIBLE else str(value)
        return Event(act.id, done, says, value=text(value))

    return job


def undoing(act: Act, action: Action, task: Task, reach: Reach, untouched: float) -> Job:
    """Puts back what is still ours; `untouched`: for how many seconds nobody has renewed it."""

    def job() -> Event:
        try:
            action.undo(task, plan_of(act, None)._replace(untouched=untouched), reach)
        except ChangedError as error:
            return Event(act.id, Kind.CHANGED, f"{error}; hands off")
        except Exception as error:  # tried again: to put back twice is to put back
            return Event(act.id, Kind.FAILED, _said(error))
        return Event(act.id, Kind.RESTORED)

    return job


def plan_of(act: Act, wanted: Any) -> Plan:
    """The plan that the journal has of an act."""
    prior = None if act.prior is None else json.loads(act.prior)
    return Plan(prior, wanted, "", tuple(json.loads(one) for one in act.ours))


def text(value: Any) -> str:
    """A value as the journal has it; equal values are equal texts."""
    return json.dumps(value, sort_keys=True)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ActionError) else f"{type(error).__name__}: {error}"
