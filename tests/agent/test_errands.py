"""Where actions run: one job at a time for each act, and none is waited for beyond its deadline."""

from __future__ import annotations

import asyncio
import threading

from agent.acts import Event, Kind
from agent.errands import DEADLINE, Errands

DONE = Event(1, Kind.DID)


def test_a_job_may_follow_another_as_soon_as_that_has_spoken() -> None:
    """A thread that has delivered its event is not in the way, however long it takes to go."""

    async def run() -> list[Event]:
        told: asyncio.Queue[Event] = asyncio.Queue()
        errands = Errands(told.put_nowait)
        found = []
        for _ in range(200):
            assert errands.run(1, lambda: DONE, 0.0)
            found.append(await asyncio.wait_for(told.get(), 10))
        return found

    assert asyncio.run(run()) == [DONE] * 200


def test_what_is_over_its_deadline_is_not_known_and_stays_in_the_way() -> None:
    """Nobody knows what it did; until it is gone nothing else is done for the act, and its late word is not heard."""

    async def run() -> list[Event]:
        told: list[Event] = []
        errands, free = Errands(told.append), threading.Event()

        def job() -> Event:
            free.wait(10)
            return DONE

        errands.run(1, job, 0.0)
        errands.expire(DEADLINE + 1)
        assert not errands.run(1, lambda: DONE, 0.0)
        assert errands.busy(1)
        free.set()
        while errands.busy(1):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not errands.outstanding
        return told

    assert [event.kind for event in asyncio.run(run())] == [Kind.UNKNOWN]
