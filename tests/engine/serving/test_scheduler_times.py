"""The times of the scheduler: waits, phases, tokens per second under a duty, cache usage; on a clock of the test."""

from __future__ import annotations

import pytest

from engine.decoder.model import PREFILL_CHUNK
from engine.serving.scheduler import QueueFullError
from tests.engine.timed_scheduler import (
    CHUNK_SECONDS,
    CONTEXT,
    PASS_SECONDS,
    SAMPLE_SECONDS,
    build_scheduler,
    finish,
    submit,
)


def test_full_queue_says_when_to_come_back() -> None:
    """Retry-After is the expected time of the queue: the mean duration of finished requests, for those that wait."""
    scheduler, clock = build_scheduler(slots=2, max_waiting=4)
    for _ in range(2):
        submit(scheduler, clock, "a", 500)
    finish(scheduler)  # 500 passes of 10 ms and twice 500 ms of sampling: 6 s each
    for _ in range(6):
        submit(scheduler, clock, "a", 10)
    with pytest.raises(QueueFullError) as before:
        submit(scheduler, clock, "a", 1)
    scheduler.step()
    with pytest.raises(QueueFullError) as after:
        submit(scheduler, clock, "a", 1)

    assert (before.value.retry_after, after.value.retry_after) == (19, 13)


def test_waits_are_observed() -> None:
    """The time to the first token starts at arrival, queueing included; later times run from token to token."""
    scheduler, clock = build_scheduler(slots=1)
    submit(scheduler, clock, "x" * PREFILL_CHUNK, 3)
    submit(scheduler, clock, "x" * PREFILL_CHUNK, 1)
    finish(scheduler)
    first = CHUNK_SECONDS + PASS_SECONDS + SAMPLE_SECONDS
    token = PASS_SECONDS + SAMPLE_SECONDS
    counters = scheduler.counters

    assert counters.first_token.total == pytest.approx(first + (first + 2 * token + first))
    assert counters.between_tokens.total == pytest.approx(2 * token)
    assert sum(counters.first_token.counts) == sum(counters.between_tokens.counts) == 2


def test_decode_seconds_are_of_each_request() -> None:
    """A pass for four requests counts four times, so tokens per decode second are those of one request."""
    scheduler, clock = build_scheduler(slots=4)
    for _ in range(4):
        submit(scheduler, clock, "", 10)
    finish(scheduler)
    work = scheduler.counters.work

    assert work.generated_tokens / work.decode_seconds == pytest.approx(1 / PASS_SECONDS)
    assert (work.passes, work.pass_seconds) == (10, pytest.approx(10 * PASS_SECONDS))


def test_every_second_has_its_phase() -> None:
    """The phases add up to the time since the start, and each has its own time."""
    scheduler, clock = build_scheduler(slots=1)
    began = clock.now
    scheduler.pace.set_lease(0.5, 3600)
    clock.now += 5
    submit(scheduler, clock, "x" * PREFILL_CHUNK, 100)
    scheduler.start()

    assert scheduler.wait_until_idle(20)

    clock.now += 3
    phases = scheduler.counters.get_phase_seconds()

    assert sum(phases.values()) == pytest.approx(clock.now - began)
    assert phases["prefill"] == pytest.approx(CHUNK_SECONDS)
    assert phases["decode"] == pytest.approx(100 * PASS_SECONDS)
    assert phases["sampling"] == pytest.approx(100 * SAMPLE_SECONDS)
    assert phases["paced"] == pytest.approx(1.12, abs=0.15)  # all but the last burst and the credit
    assert phases["idle"] == pytest.approx(8, abs=0.2)
    assert scheduler.stop(10)


@pytest.mark.parametrize("duty", [0.1, 0.25, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("requests", [1, 4])
def test_tokens_per_second_follow_duty(duty: float, requests: int) -> None:
    """In one or several long streams, tokens per second are the duty times those at duty 1, within 2 %."""
    speeds = []
    for lease_duty in (1.0, duty):
        scheduler, clock = build_scheduler(slots=requests)
        scheduler.pace.set_lease(lease_duty, 3600)
        began = clock.now
        for _ in range(requests):
            submit(scheduler, clock, "x" * PREFILL_CHUNK, 400)
        scheduler.start()

        assert scheduler.wait_until_idle(50)

        speeds.append(scheduler.counters.work.generated_tokens / (clock.now - began))
        scheduler.stop(10)

    assert speeds[1] / speeds[0] == pytest.approx(duty, rel=0.02)


def test_cache_usage_is_of_all_slots() -> None:
    """The usage is the share of all slots' cache that has tokens, and 0 when idle."""
    scheduler, clock = build_scheduler(slots=2)
    submit(scheduler, clock, "x" * (PREFILL_CHUNK - 1), 10)
    scheduler.step()

    assert scheduler.cache_usage == PREFILL_CHUNK / (2 * CONTEXT)

    finish(scheduler)

    assert scheduler.cache_usage == 0
