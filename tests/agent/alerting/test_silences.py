"""Silences of Alertmanagers apply to remedies; if no Alertmanager answers, none applies, and a warning is logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from agent.alerting import silences
from agent.alerting.silences import Silences
from agent.config.loader import parse
from agent.config.schema import AlertingConfig
from collectors import Labels
from tests.processes import PATIENCE
from tests.waiting import wait_until

HOT: Labels = (("alertname", "Hot"), ("dimm", "A1"))
OTHER: Labels = (("alertname", "Other"),)
WAIT = PATIENCE


def build_silence(*matchers: tuple[str, str], state: str = "active", **more: bool) -> dict[str, Any]:
    return {
        "id": "x",
        "status": {"state": state},
        "matchers": [{"name": name, "value": value, "isRegex": False, **more} for name, value in matchers],
    }


class Peer:
    """An Alertmanager on loopback: answers with its silences, with something else, or not at all."""

    def __init__(self, *active_silences: dict[str, Any]) -> None:
        self.body: Any = list(active_silences)
        self.status = 200
        self.hangs = False
        self.requests = 0
        self.address = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        while self.hangs:
            await asyncio.sleep(0.01)
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return web.Response(status=self.status, body=body, content_type="application/json")

    async def open(self, stack: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_get("/api/v2/silences", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{runner.addresses[0][1]}"


def parse_alerting(*peers: Peer) -> AlertingConfig:
    groups = [{"static_configs": [{"targets": [peer.address]}], "timeout": "30s"} for peer in peers]
    return parse({"alerting": {"alertmanagers": groups}}, "f", {}).alerting


def run_with_peers(peers: list[Peer], scenario: Callable[[Silences], Awaitable[None]]) -> None:
    """Runs a scenario with the silences of these peers, polled every 20 ms."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            for peer in peers:
                await peer.open(stack)
            known_silences = Silences({"instance": "box"})
            stack.push_async_callback(known_silences.close)
            await known_silences.configure(parse_alerting(*peers), is_enabled=True)
            await scenario(known_silences)
            for peer in peers:
                peer.hangs = False

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silences, "POLL_INTERVAL", 0.02)


@pytest.mark.parametrize(
    ("active_silence", "silenced"),
    [
        (build_silence(("alertname", "Hot")), True),
        (build_silence(("alertname", "Hot"), ("instance", "box")), True),
        (build_silence(("alertname", "Hot"), ("dimm", "B1")), False),
        (build_silence(("alertname", "H.*"), isRegex=True), True),
        (build_silence(("alertname", "Hot"), isEqual=False), False),
        (build_silence(("rack", "r7"), isEqual=False), True),
        (build_silence(("alertname", "Hot"), state="expired"), False),
        (build_silence(("alertname", "Hot"), state="pending"), False),
    ],
)
def test_what_is_silenced(active_silence: dict[str, Any], silenced: bool) -> None:
    """A silence applies if it is active and all its matchers match the alert's labels and the external ones."""
    peer = Peer(active_silence)

    async def scenario(known_silences: Silences) -> None:
        await wait_until(lambda: peer.requests > 1)
        assert known_silences.is_silenced(HOT) is silenced

    run_with_peers([peer], scenario)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, []),
        (200, b"garbage"),
        (200, {"a": 1}),
        (200, [{"matchers": []}]),
        (200, b" " * (silences.MAX_ANSWER_BYTES + 1)),
    ],
)
def test_a_bad_answer_is_none(status: int, body: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """After a bad answer nothing counts as silenced, which is logged once; polling continues until a good answer."""
    peer = Peer(build_silence(("alertname", "Hot")))
    good = peer.body

    async def scenario(known_silences: Silences) -> None:
        await wait_until(lambda: known_silences.is_silenced(HOT))
        peer.status, peer.body = status, body
        await wait_until(lambda: not known_silences.is_known)
        assert not known_silences.is_silenced(HOT)
        requests = peer.requests
        await wait_until(lambda: peer.requests > requests + 1)
        peer.status, peer.body = 200, good
        await wait_until(lambda: known_silences.is_known)
        assert known_silences.is_silenced(HOT)

    run_with_peers([peer], scenario)
    output = capsys.readouterr()

    assert (output.out + output.err).count("silences cannot be fetched") == 1
    assert (output.out + output.err).count("silences can be fetched again") == 1


@pytest.mark.parametrize("ill", ["hangs", "fails"])
def test_one_that_answers_is_enough(ill: str) -> None:
    """The silences of the second peer apply whatever the first does; a hanging peer blocks nothing."""
    first, second = Peer(), Peer(build_silence(("alertname", "Hot")))
    first.hangs, first.status = ill == "hangs", 500

    async def scenario(known_silences: Silences) -> None:
        await wait_until(lambda: known_silences.is_silenced(HOT))
        assert known_silences.is_known
        assert not known_silences.is_silenced(OTHER)
        requests = second.requests
        await wait_until(lambda: second.requests > requests + 1)

    run_with_peers([first, second], scenario)


def test_nothing_begins_before_the_first_answer() -> None:
    """The silences are known when the agent starts."""

    async def scenario(known_silences: Silences) -> None:
        assert known_silences.is_silenced(HOT)

    run_with_peers([Peer(build_silence(("alertname", "Hot")))], scenario)


def test_a_first_answer_that_stays_away_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent starts without the answer, logs that once, and uses the answer when it comes."""
    monkeypatch.setattr(silences, "FIRST_ANSWER_TIMEOUT", 0.05)
    peer = Peer(build_silence(("alertname", "Hot")))
    peer.hangs = True

    async def scenario(known_silences: Silences) -> None:
        assert not known_silences.is_known
        assert not known_silences.is_silenced(HOT)
        peer.hangs = False
        await wait_until(lambda: known_silences.is_silenced(HOT))
        assert known_silences.is_known

    run_with_peers([peer], scenario)
    output = capsys.readouterr()

    assert (output.out + output.err).count("silences cannot be fetched") == 1
    assert (output.out + output.err).count("silences can be fetched again") == 1


def test_a_reload_keeps_what_is_silenced() -> None:
    """Silences stay until the Alertmanagers of the new configuration have answered; without any they end at once."""
    peer = Peer(build_silence(("alertname", "Hot")))

    async def scenario(known_silences: Silences) -> None:
        await wait_until(lambda: known_silences.is_silenced(HOT))
        peer.hangs = True
        requests = peer.requests
        await known_silences.configure(parse_alerting(peer), is_enabled=True)
        await wait_until(lambda: peer.requests > requests)
        assert known_silences.is_silenced(HOT)
        peer.body = []
        peer.hangs = False
        await wait_until(lambda: not known_silences.is_silenced(HOT))
        peer.body = [build_silence(("alertname", "Hot"))]
        await wait_until(lambda: known_silences.is_silenced(HOT))
        await known_silences.configure(parse_alerting(peer), is_enabled=False)
        assert not known_silences.is_silenced(HOT)

    run_with_peers([peer], scenario)


def test_without_an_alertmanager(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is silenced, and the log says why."""

    async def scenario(known_silences: Silences) -> None:
        await wait_until(lambda: not known_silences.is_known)
        assert not known_silences.is_silenced(HOT)

    run_with_peers([], scenario)
    output = capsys.readouterr()

    assert "no Alertmanager is configured" in output.out + output.err
