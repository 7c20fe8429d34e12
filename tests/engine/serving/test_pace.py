"""The account of work and rest under a duty, on an injected clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.serving.pace import CREDIT, Pace


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def work_for(pace: Pace, clock: Clock, seconds: float) -> None:
    """Simulates one forward pass."""
    clock.now += seconds
    pace.charge(seconds)


@given(
    duty=st.floats(0.1, 1.0),
    passes=st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=40),
    between=st.floats(0, 0.01),
)
def test_share_of_time_never_exceeds_duty(duty: float, passes: list[float], between: float) -> None:
    """After each rest, decode time over wall time since the lease began is at most the duty."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(duty, ttl=3600)
    began, busy = clock.now, 0.0
    pace.begin_work()
    for seconds in passes:
        work_for(pace, clock, seconds)
        busy += seconds
        clock.now += between + max(0.0, pace.get_debt() - between)

        assert busy <= duty * (clock.now - began) * (1 + 1e-9) + 1e-9


@given(duty=st.floats(0.1, 0.95), late=st.floats(0, 0.02))
def test_late_wake_ups_are_earned_back(duty: float, late: float) -> None:
    """Sleeps that last too long do not lower the share over many passes, if the duty leaves time to catch up."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(duty, ttl=3600)
    began, busy = clock.now, 0.0
    for _ in range(400):
        work_for(pace, clock, 0.01)
        busy += 0.01
        if (owed := pace.get_debt()) > 0:
            clock.now += owed + late

    assert busy / (clock.now - began) == pytest.approx(duty, rel=0.03)


def test_full_duty_never_rests() -> None:
    """Without a lease there is no debt, whatever the work."""
    clock = Clock()
    pace = Pace(clock)
    for _ in range(100):
        work_for(pace, clock, 0.1)

        assert pace.get_debt() <= 1e-9


def test_lease_ends_by_itself() -> None:
    """After the ttl the duty is 1.0 and the debt is forgiven."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.1, ttl=30)
    work_for(pace, clock, 10)

    assert pace.get_duty() == 0.1
    assert pace.get_debt() == pytest.approx(90)

    clock.now += 20

    assert pace.get_duty() == 1.0
    assert pace.get_debt() <= 0


def test_owed_alone_notices_the_end_of_a_lease() -> None:
    """The debt is forgiven at the end of the lease, also without a call of get_duty."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.1, ttl=15)
    work_for(pace, clock, 10)
    clock.now += 5

    assert pace.get_debt() <= 0


def test_renewal_keeps_the_debt() -> None:
    """The same duty again lengthens the lease and forgives nothing."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.5, ttl=30)
    work_for(pace, clock, 20)
    pace.set_lease(0.5, ttl=30)

    assert pace.get_debt() == pytest.approx(20)

    clock.now += 20

    assert pace.get_duty() == 0.5


def test_a_later_lease_takes_the_place() -> None:
    """Duty 1.0 ends the slowdown at once."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.1, ttl=30)
    work_for(pace, clock, 1)
    pace.set_lease(1.0, ttl=1)

    assert pace.get_duty() == 1.0
    assert pace.get_debt() <= 0


def test_idle_time_earns_nothing() -> None:
    """A request after an hour of idling is paced from its first pass on."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.5, ttl=7200)
    clock.now += 3600
    pace.begin_work()
    work_for(pace, clock, 1)

    assert pace.get_debt() == pytest.approx(1)


def test_pauses_inside_a_request_earn_little() -> None:
    """The pause of a slow client earns at most the credit."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.5, ttl=7200)
    work_for(pace, clock, 1)
    clock.now += 100

    assert pace.get_debt() == -CREDIT

    work_for(pace, clock, 1)

    assert pace.get_debt() == pytest.approx(1 - CREDIT)


def test_debt_outlives_a_request() -> None:
    """One-token requests in a row are paced like one long request."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.5, ttl=7200)
    work_for(pace, clock, 1)
    pace.begin_work()

    assert pace.get_debt() == pytest.approx(1)


def test_rest_ends_when_the_client_has_gone() -> None:
    """The rest ends once the client has left."""
    clock = Clock()
    pace = Pace(clock)
    pace.set_lease(0.1, ttl=7200)
    work_for(pace, clock, 100)
    looks: list[int] = []

    def has_client_left() -> bool:
        looks.append(1)
        return len(looks) > 1

    pace.rest(has_client_left)

    assert len(looks) == 2
