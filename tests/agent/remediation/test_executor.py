"""The executor runs one job at a time for each act, and waits for none beyond its deadline."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agent.actions import ChangedError, FailedError, RefusedError, Task, UnknownError
from agent.remediation import transitions
from agent.remediation.executor import DEADLINE, ActionExecutor, make_do_job
from agent.remediation.model import Act, Event, EventKind, Phase, RemediationState
from tests.agent.actions.test_actions import ACTIONS, FakeContext, make_task

DONE = Event(1, EventKind.DID)


def test_a_job_may_follow_another_as_soon_as_that_has_spoken() -> None:
    """A thread that has delivered its event does not block the next job, however long it takes to end."""

    async def run() -> list[Event]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        executor = ActionExecutor(events.put_nowait)
        delivered = []
        for _ in range(200):
            assert executor.run(1, lambda: DONE, 0.0)
            delivered.append(await asyncio.wait_for(events.get(), 10))
        return delivered

    assert asyncio.run(run()) == [DONE] * 200


def test_what_is_over_its_deadline_is_not_known_and_stays_in_the_way() -> None:
    """The outcome of a late job is unknown; it blocks its act until it ends, and its own event is dropped."""

    async def run() -> list[Event]:
        events: list[Event] = []
        executor, free = ActionExecutor(events.append), threading.Event()

        def job() -> Event:
            free.wait(10)
            return DONE

        executor.run(1, job, 0.0)
        executor.expire_jobs(DEADLINE + 1)
        assert not executor.run(1, lambda: DONE, 0.0)
        assert executor.is_busy(1)
        free.set()
        while executor.is_busy(1):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not executor.has_pending
        return events

    assert [event.kind for event in asyncio.run(run())] == [EventKind.UNKNOWN]


ACT = Act(1, "drop", "page cache", (), False, False, Phase.WRITING, 0, ())


@pytest.mark.parametrize(
    ("error", "kind", "latched"),
    [
        (RefusedError("somebody came"), EventKind.REFUSED, False),
        (FailedError("nobody answers"), EventKind.FAILED, False),
        (ChangedError("it is 7"), EventKind.CHANGED, True),
        (UnknownError("no answer"), EventKind.UNKNOWN, True),
        (KeyError("x"), EventKind.UNKNOWN, True),
    ],
)
def test_each_end_of_an_act_has_its_meaning(error: Exception, kind: EventKind, latched: bool) -> None:
    """A refusal or a failure before the write may be tried again; an unknown outcome may not."""

    class Broken:
        REVERSIBLE = False

        @staticmethod
        def do(*_: Any) -> None:
            raise error

    action: Any = Broken
    event = make_do_job(ACT, action, make_task("drop_caches"), FakeContext(), "dropped", EventKind.DID)()
    after = transitions.apply(RemediationState(acts=(ACT,)), event, 0).state

    assert event.kind is kind
    assert after.acts == ()
    assert bool(after.latches) == latched


class Silent(FakeContext):
    """A machine whose readings time out, and whose writes succeed."""

    def http(self, method: str, *arguments: Any, **more: Any) -> Any:
        if method == "GET":
            raise UnknownError("http://127.0.0.1:1: timed out")
        return super().http(method, *arguments, **more)

    def line(self, address: str, text: str) -> str:
        if text.startswith("show"):
            raise UnknownError(f"{address} did not answer")
        return super().line(address, text)

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        if verb == "renew":
            raise UnknownError("the hand did not answer renew")
        return super().hand(verb, **arguments)


@pytest.mark.parametrize("name", ["pace", "haproxy", "freeze"])
def test_no_answer_to_a_look_is_a_failure(name: str) -> None:
    """Before the first write a lost answer is a failure, which does not latch the remedy."""
    right: Task = make_task(name)
    plan = ACTIONS[name].plan(right, FakeContext())

    with pytest.raises(FailedError, match="nothing was done"):
        ACTIONS[name].do(right, plan._replace(ours=(plan.wanted,)), Silent())
