"""Uevents: events about hardware that comes or goes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.sampling.hotplug import Hotplug

UEVENT = Path("/sys/class/net/lo/uevent")


def _skip_without_uevents() -> None:
    if not os.access(UEVENT, os.W_OK):
        pytest.skip(f"{UEVENT} is not writable: uevents cannot be made without root")


def _run_with_events(hotplug: Hotplug, events: int) -> None:
    """Makes so many events, then one more, and waits until the last one is received."""

    async def scenario() -> None:
        if not hotplug.start():
            pytest.skip("no libudev or no netlink here")
        for _ in range(events):
            UEVENT.write_text("change")
        await asyncio.sleep(0.5)
        before = hotplug.events
        UEVENT.write_text("change")
        async with asyncio.timeout(10):
            while hotplug.events == before:
                await asyncio.sleep(0.02)
        hotplug.close()

    asyncio.run(scenario())


def test_events_are_heard() -> None:
    """A uevent is passed on with its subsystem."""
    _skip_without_uevents()
    subsystems: list[str | None] = []
    _run_with_events(Hotplug(subsystems.append), 1)

    assert "net" in subsystems


def test_an_overflow_is_survived() -> None:
    """A full receive buffer is counted, the loss is passed on as None, and later events are received."""
    _skip_without_uevents()
    subsystems: list[str | None] = []
    hotplug = Hotplug(subsystems.append, receive_buffer=4096)
    _run_with_events(hotplug, 3000)

    assert hotplug.overflows >= 1
    assert None in subsystems


def test_without_udev_it_is_said_once_and_life_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without libudev, subscribing logs one line and does not raise."""

    def raise_import_error() -> None:
        raise ImportError("No library named udev")

    monkeypatch.setattr("pyudev.Context", raise_import_error)

    async def scenario() -> bool:
        hotplug = Hotplug(lambda _subsystem: None)
        is_started = hotplug.start()
        hotplug.close()
        return is_started

    assert asyncio.run(scenario()) is False
    assert capsys.readouterr().out.count("No library named udev") == 1
