"""The engine over loopback HTTP with slow passes: requests that wait, leave, rest and are stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from engine.serving.pace import BURST, Pace

# Classes of conftest; tests are not packages, so they cannot be named here.
Client = Any
Answer = Any


def test_one_decode_at_a_time(slow_client: Client, wait_until: Any) -> None:
    """While one request runs the others wait, are counted, and are answered later."""
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(slow_client.complete(prompt="a", max_tokens=20)))
        for _ in range(4)
    ]
    slow_client.gate.clear()
    for thread in threads:
        thread.start()
    wait_until(lambda: slow_client.read_metric("requests_waiting") == 3)

    assert slow_client.read_metric("requests_running") == 1

    slow_client.gate.set()
    for thread in threads:
        thread.join(20)

    assert [answer.status for answer in answers] == [200] * 4

    # An answer reaches its client a moment before its turn ends.
    wait_until(lambda: slow_client.read_metric("requests_running") == 0)

    assert slow_client.read_metric("requests_waiting") == 0


def test_full_queue_is_refused(slow_client: Client, wait_until: Any) -> None:
    """A request beyond the queue's limit is a 429 with Retry-After."""
    slow_client.gate.clear()
    threads = [
        threading.Thread(target=slow_client.complete, kwargs={"prompt": "a", "max_tokens": 1}) for _ in range(65)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: slow_client.read_metric("requests_waiting") == 64)
    answer = slow_client.complete(prompt="a", max_tokens=1)
    slow_client.gate.set()
    for thread in threads:
        thread.join(20)

    assert answer.status == 429
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_stops_the_work(slow_client: Client, wait_until: Any, stream: bool) -> None:
    """Once the client closes its connection, its request gets no further pass."""
    connection = slow_client.connect()
    body = json.dumps({"prompt": "a", "max_tokens": 100, "stream": stream})
    connection.request("POST", "/v1/completions", body)
    wait_until(lambda: slow_client.read_metric("generated_tokens_total") >= 3)
    slow_client.gate.clear()
    connection.sock.close()
    slow_client.gate.set()
    wait_until(lambda: slow_client.read_metric("requests_running") == 0)

    assert 3 <= slow_client.read_metric("generated_tokens_total") < 100
    assert slow_client.complete(prompt="a", max_tokens=1).status == 200


def test_waiting_client_that_leaves_is_forgotten(slow_client: Client, wait_until: Any) -> None:
    """A client that leaves the queue gets no pass when its turn comes."""
    slow_client.gate.clear()
    first = threading.Thread(target=slow_client.complete, kwargs={"prompt": "a", "max_tokens": 3})
    first.start()
    wait_until(lambda: slow_client.read_metric("requests_running") == 1)
    second = slow_client.connect()
    second.request("POST", "/v1/completions", b'{"prompt": "a", "max_tokens": 5}')
    wait_until(lambda: slow_client.read_metric("requests_waiting") == 1)
    second.sock.close()
    slow_client.gate.set()
    first.join(20)
    wait_until(lambda: slow_client.read_metric("requests_waiting") + slow_client.read_metric("requests_running") == 0)

    assert slow_client.read_metric("generated_tokens_total") == 3


def test_duty_holds_inside_a_stream(slow_client: Client, wait_until: Any) -> None:
    """A running request rests after a burst of work, and continues after the lease."""
    clock: list[Callable[[], float]] = [lambda: 0.0]
    scheduler = slow_client.server.served_model.scheduler
    scheduler.pace = Pace(lambda: clock[0]())
    scheduler.pace.set_lease(0.1, ttl=60)
    thread = threading.Thread(target=slow_client.complete, kwargs={"prompt": "a", "max_tokens": 100})
    thread.start()
    wait_until(lambda: scheduler.pace.get_debt() > 9 * BURST)  # duty 0.1: nine times the work
    time.sleep(0.2)  # time for passes that must not happen, of 5 ms each
    generated_at_rest = scheduler.counters.work.generated_tokens
    clock[0] = lambda: 61.0 + time.monotonic()
    thread.join(20)

    assert 1 <= generated_at_rest <= BURST / 0.005
    assert scheduler.counters.work.generated_tokens == 100


def test_stop_ends_a_running_request(slow_client: Client, wait_until: Any) -> None:
    """Stopping the engine ends a running request within one pass."""
    connection = slow_client.connect()
    connection.request("POST", "/v1/completions", b'{"prompt": "a", "max_tokens": 100}')
    wait_until(lambda: slow_client.read_metric("generated_tokens_total") >= 3)

    assert slow_client.server.served_model.scheduler.stop(timeout=10)
    assert slow_client.server.served_model.scheduler.counters.work.generated_tokens < 100

    connection.close()
