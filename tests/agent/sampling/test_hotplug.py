"""News of hardware that comes and goes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.sampling.hotplug import COLLECTORS_BY_SUBSYSTEM, Hotplug

UEVENT = Path("/sys/class/net/lo/uevent")


def needs_uevents() -> None:
    if not os.access(UEVENT, os.W_OK):
        pytest.skip(f"{UEVENT} is not writable: uevents cannot be made without root")


def listen(hotplug: Hotplug, events: int) -> None:
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


def test_events_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uevent of a subsystem that matters names the collectors that must look again."""
    needs_uevents()
    monkeypatch.setitem(COLLECTORS_BY_SUBSYSTEM, "net", ("topology",))
    heard: list[tuple[str, ...]] = []
    listen(Hotplug(heard.append), 1)

    assert ("topology",) in heard


def test_an_overflow_is_survived() -> None:
    """A full receive buffer is counted, every collector looks again, and later events are still heard."""
    needs_uevents()
    heard: list[tuple[str, ...]] = []
    hotplug = Hotplug(heard.append, receive_buffer=4096)
    listen(hotplug, 3000)

    assert hotplug.overflows >= 1
    assert any({"topology", "hwmon", "edac"} <= set(names) for names in heard)


def test_without_udev_it_is_said_once_and_life_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where libudev is missing, subscribing says so in one line and does not raise."""

    def no_library() -> None:
        raise ImportError("No library named udev")

    monkeypatch.setattr("pyudev.Context", no_library)

    async def scenario() -> bool:
        hotplug = Hotplug(lambda names: None)
        started = hotplug.start()
        hotplug.close()
        return started

    assert asyncio.run(scenario()) is False
    assert capsys.readouterr().out.count("No library named udev") == 1


def test_every_collector_that_is_told_exists() -> None:
    """The table names collectors of this house, or those that are to come with their own file."""
    from agent.sampling.plugins import load_collectors

    named = {name for names in COLLECTORS_BY_SUBSYSTEM.values() for name in names}

    assert named - set(load_collectors()) <= {"ipmi"}
