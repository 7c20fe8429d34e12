"""Notifications to systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime.sd_notify import SystemdNotifier


@pytest.fixture(name="listener")
def _listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def receive_lines(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


def test_ready_is_told_once_and_alive_with_each_tick(tmp_path: Path, listener: socket.socket) -> None:
    """The first tick reports the daemon ready; a status is sent only when it changes."""
    systemd = SystemdNotifier(str(tmp_path / "notify"))
    for status in ("a", "a", "b"):
        systemd.notify_tick(status)
    systemd.notify_stopping()

    assert receive_lines(listener) == ["WATCHDOG=1", "READY=1", "STATUS=a"]
    assert receive_lines(listener) == ["WATCHDOG=1"]
    assert receive_lines(listener) == ["WATCHDOG=1", "STATUS=b"]
    assert receive_lines(listener) == ["STOPPING=1"]


def test_an_address_in_the_abstract_namespace_is_understood() -> None:
    """systemd writes @NAME for an address whose first byte is 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses an abstract name
        listener.settimeout(5)
        name = listener.getsockname()
        SystemdNotifier("@" + name[1:].decode()).notify_stopping()

        assert receive_lines(listener) == ["STOPPING=1"]


def test_children_cannot_speak_for_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is removed from the environment once it was read."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    SystemdNotifier.from_environment()

    assert "NOTIFY_SOCKET" not in os.environ


def test_where_nobody_listens_nothing_happens(tmp_path: Path) -> None:
    """A missing socket does not make a tick fail."""
    SystemdNotifier(None).notify_tick("a")
    SystemdNotifier(str(tmp_path / "gone")).notify_tick("a")
