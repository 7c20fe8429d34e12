"""Which alerts are sent to Alertmanager, when, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from prometheus_client import CollectorRegistry

from agent.alerting.alertmanagers import list_targets
from agent.alerting.notifier import Notifier, NotifierCounters, build_payload, needs_sending
from agent.config.schema import AlertingConfig, AlertmanagerSettings, StaticConfig
from rules.alerts import Alert, AlertState
from tests.waiting import wait_until

MINUTE = 60_000
FIRING = Alert(
    name="DimmHot",
    labels=(("alertname", "DimmHot"), ("dimm", "3-0050")),
    annotations=(("summary", "hot"),),
    state=AlertState.FIRING,
    value=1.0,
    active_at_ms=1_000_000,
    expr='up{a="b"} == 1',
    interval_ms=1000,
    fired_at_ms=1_060_000,
)
RESOLVED = replace(FIRING, state=AlertState.RESOLVED, resolved_at_ms=1_200_000)
PENDING = replace(FIRING, state=AlertState.PENDING, fired_at_ms=None)


@pytest.mark.parametrize(
    ("alert", "sent", "now", "due"),
    [
        (PENDING, None, 2_000_000, False),
        (FIRING, None, 1_060_000, True),
        (FIRING, 1_060_000, 1_060_000 + MINUTE, False),
        (FIRING, 1_060_000, 1_060_001 + MINUTE, True),
        (RESOLVED, 1_199_000, 1_200_000, True),
        (RESOLVED, 1_200_000, 1_201_000, False),
        (RESOLVED, 1_200_000, 1_200_001 + MINUTE, True),
    ],
)
def test_what_is_due(alert: Alert, sent: int | None, now: int, due: bool) -> None:
    """Prometheus' own rule: new, newly resolved, or a whole resend delay old; pending alerts are never sent."""
    assert needs_sending(alert, sent, now, MINUTE) is due


def test_a_firing_alert_outlives_three_lost_batches() -> None:
    """endsAt is four resend delays ahead, startsAt is when the alert began to fire."""
    body = build_payload(FIRING, 2_000_000, MINUTE, {"instance": "h1"}, "http://h1:9817/")

    assert body["startsAt"] == "1970-01-01T00:17:40.000Z"
    assert body["endsAt"] == "1970-01-01T00:37:20.000Z"
    assert body["labels"] == {"instance": "h1", "alertname": "DimmHot", "dimm": "3-0050"}
    assert body["generatorURL"] == "http://h1:9817/graph?g0.expr=up%7Ba%3D%22b%22%7D+%3D%3D+1&g0.tab=1"


def test_a_resolved_alert_ends_when_it_resolved() -> None:
    """endsAt is the time of resolution, however late the alert is sent."""
    assert build_payload(RESOLVED, 9_000_000, MINUTE, {}, "http://x")["endsAt"] == "1970-01-01T00:20:00.000Z"


def test_an_alerts_own_label_wins() -> None:
    """An external label is added only if the alert has none of that name."""
    labelled = replace(FIRING, labels=(*FIRING.labels, ("instance", "other")))

    assert build_payload(labelled, 0, MINUTE, {"instance": "h1"}, "http://x")["labels"]["instance"] == "other"


def test_every_alertmanager_is_a_target() -> None:
    """Each address of each static_config gets the API's path, with scheme and prefix."""
    settings = AlertmanagerSettings(static_configs=(StaticConfig(targets=("am1:9093", "am2:9093")),), scheme="https")

    for prefix, path in (("/am/", "/am"), ("am", "/am"), ("/", "")):
        group = structs.replace(settings, path_prefix=prefix)
        assert [target.url for target in list_targets(AlertingConfig(alertmanagers=(group,)))] == [
            f"https://am1:9093{path}/api/v2/alerts",
            f"https://am2:9093{path}/api/v2/alerts",
        ]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_told_within_one_resend_delay(pauses: list[int]) -> None:
    """However the ticks fall, a living alert is sent at the first tick after its delay, and not before."""
    sent: int | None = None
    now = FIRING.fired_at_ms or 0
    for pause in pauses:
        if needs_sending(FIRING, sent, now, 1000):
            assert sent is None or now - sent > 1000
            sent = now
        assert sent is not None
        assert now - sent <= 1000
        now += pause


class Receiver:
    """An HTTP server on loopback that accepts alerts, and answers as a test sets it."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.status = 200

    async def handle_post(self, request: web.Request) -> web.Response:
        self.batches.append(await request.json())
        return web.Response(status=self.status)


def run_with_notifier(scenario: Callable[[Notifier, Receiver, NotifierCounters, str], Awaitable[None]]) -> None:
    async def run() -> None:
        receiver = Receiver()
        app = web.Application()
        app.router.add_post("/api/v2/alerts", receiver.handle_post)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"127.0.0.1:{runner.addresses[0][1]}"
        settings = AlertmanagerSettings(static_configs=(StaticConfig(targets=(address,)),))
        counters = NotifierCounters(CollectorRegistry())
        notifier = Notifier(AlertingConfig(alertmanagers=(settings,)), {"instance": "h1"}, "http://h1", counters)
        await notifier.start()
        try:
            await scenario(notifier, receiver, counters, f"http://{address}/api/v2/alerts")
        finally:
            await notifier.close()
            await runner.cleanup()

    asyncio.run(run())


def test_alerts_arrive_and_are_counted() -> None:
    """An alert is sent once until its delay is over; closing the notifier resolves nothing."""

    async def scenario(notifier: Notifier, receiver: Receiver, counters: NotifierCounters, url: str) -> None:
        waiting = replace(PENDING, labels=(("alertname", "Waiting"),))
        assert notifier.enqueue_due([FIRING, waiting], 1_060_000) == 1
        assert notifier.enqueue_due([FIRING], 1_061_000) == 0
        await wait_until(lambda: len(receiver.batches) == 1)
        await wait_until(lambda: counters.sent.labels(url)._value.get() == 1)
        await notifier.close()

        assert [alert["labels"]["alertname"] for alert in receiver.batches[0]] == ["DimmHot"]
        assert len(receiver.batches) == 1

    run_with_notifier(scenario)


def test_a_refused_batch_is_counted_and_told_again() -> None:
    """A failed batch is counted, not retried; the next resend brings the alert."""

    async def scenario(notifier: Notifier, receiver: Receiver, counters: NotifierCounters, url: str) -> None:
        receiver.status = 500
        notifier.enqueue_due([FIRING], 1_060_000)
        await wait_until(lambda: counters.errors.labels(url)._value.get() == 1)
        receiver.status = 200
        notifier.enqueue_due([FIRING], 1_060_001 + MINUTE)
        await wait_until(lambda: counters.sent.labels(url)._value.get() == 1)

        assert len(receiver.batches) == 2

    run_with_notifier(scenario)


def test_a_full_queue_loses_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded; dropped alerts are counted, and the newest stay."""
    monkeypatch.setattr("agent.alerting.notifier.QUEUE", 3)

    async def scenario(notifier: Notifier, receiver: Receiver, counters: NotifierCounters, url: str) -> None:
        alerts = [replace(FIRING, labels=(("alertname", str(n)),)) for n in range(5)]
        notifier.enqueue_due(alerts, 1_060_000)
        await wait_until(lambda: bool(receiver.batches))

        assert counters.dropped.labels(url)._value.get() == 2
        assert [alert["labels"]["alertname"] for alert in receiver.batches[0]] == ["2", "3", "4"]

    run_with_notifier(scenario)


def test_a_step_of_the_clock_does_not_resend() -> None:
    """The times of sending move with the wall clock: an hour forward is not an hour of silence."""

    async def scenario(notifier: Notifier, receiver: Receiver, counters: NotifierCounters, url: str) -> None:
        notifier.enqueue_due([FIRING], 1_060_000)
        notifier.shift(3_600_000)

        assert notifier.enqueue_due([FIRING], 1_061_000 + 3_600_000) == 0

    run_with_notifier(scenario)
