"""The notifier while Alertmanager misbehaves; the rest is in tests/agent/alerting/test_notifier.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.schema import AlertingConfig, AlertmanagerSettings, StaticConfig
from rules.alerts import Alert, AlertState
from tests.waiting import wait_until

FIRING = Alert(
    name="DimmHot",
    labels=(("alertname", "DimmHot"),),
    annotations=(),
    state=AlertState.FIRING,
    value=1.0,
    active_at_ms=1_000_000,
    expr="up == 1",
    interval_ms=1000,
    fired_at_ms=1_060_000,
)


def test_an_answer_that_is_not_text_ends_nothing() -> None:
    """A proxy's error page in no valid encoding costs its batch; the next resend arrives."""
    bodies = [b"\xff\xfe\x00", b""]
    batches: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        body = bodies.pop(0)
        if body:
            return web.Response(status=502, body=body, content_type="text/html", charset="utf-8")
        batches.append(await request.json())
        return web.Response()

    async def scenario(address: str) -> None:
        settings = AlertmanagerSettings(static_configs=(StaticConfig(targets=(address,)),))
        notifier = Notifier(
            AlertingConfig(alertmanagers=(settings,)),
            {},
            "http://h1",
            NotifierCounters(CollectorRegistry()),
        )
        await notifier.start()
        notifier.enqueue_due([FIRING], 1_060_000)
        await wait_until(lambda: len(bodies) == 1)
        notifier.enqueue_due([replace(FIRING)], 1_130_000)
        await wait_until(lambda: bool(batches))
        await notifier.close()

    run_server(take, scenario)


def run_server(
    take: Callable[[web.Request], Awaitable[web.Response]],
    scenario: Callable[[str], Awaitable[None]],
) -> None:
    async def run() -> None:
        app = web.Application()
        app.router.add_post("/api/v2/alerts", take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await scenario(f"127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()

    asyncio.run(run())
