"""
Subscribes to uevents, the kernel's events about hardware that comes or goes. Only this file imports pyudev.

The events come from the kernel itself, because a container or a minimal host has no udevd to pass them on. After an
overflow of the receive buffer every poll() raises an OSError without a number, until the socket's error is read.
https://github.com/pyudev/pyudev/issues/194
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import structlog

RECEIVE_BUFFER = 8 << 20  # bytes: onlining the memory of a large host sends thousands of events at once
MAX_EVENTS_PER_TURN = 256  # events handled before the event loop gets its turn


def load_pyudev() -> tuple[Any, Any]:
    """
    Returns pyudev and a context of it. Raises ImportError without libudev.

    pyudev finds the library through ctypes.util, which runs ldconfig and compilers. A service that may execute no
    program would find none, so its soname, unchanged since 2011, is the fallback.
    """
    import pyudev
    from pyudev._ctypeslib import utils

    find_library, utils.find_library = utils.find_library, lambda name: find_library(name) or f"lib{name}.so.1"
    try:
        return pyudev, pyudev.Context()
    except OSError as error:
        raise ImportError(f"libudev: {error}") from error
    finally:
        utils.find_library = find_library


class Hotplug:
    """A subscription to uevents; `on_event` gets the subsystem of each, or None where events were lost."""

    def __init__(self, on_event: Callable[[str | None], None], *, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self._on_event = on_event
        self._receive_buffer = receive_buffer
        self._monitor: Any = None
        self._log = structlog.get_logger()
        self.overflows = 0
        self.events = 0

    def start(self) -> bool:
        """Subscribes; returns False, and logs the reason, where uevents cannot be received."""
        try:
            pyudev, context = load_pyudev()
            monitor = pyudev.Monitor.from_netlink(context, source="kernel")
            self._enlarge_buffer(monitor)
            monitor.start()
        except (ImportError, OSError) as error:
            self._log.info(
                "uevents cannot be received; hardware that comes or goes is found at the next slow pass",
                reason=str(error),
            )
            return False
        self._monitor = monitor
        asyncio.get_running_loop().add_reader(monitor.fileno(), self._read_events)
        return True

    def _enlarge_buffer(self, monitor: Any) -> None:
        try:
            monitor.set_receive_buffer_size(self._receive_buffer)
        except PermissionError:  # above net.core.rmem_max needs CAP_NET_ADMIN, which the service lacks
            with socket.socket(fileno=os.dup(monitor.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)

    def _read_events(self) -> None:
        for _ in range(MAX_EVENTS_PER_TURN):
            try:
                device = self._monitor.poll(timeout=0)
            except OSError:
                self._handle_overflow()
                continue
            if device is None:  # not `not device`: a Device has a deprecated __len__
                return
            self._handle_event(device.subsystem)

    def _handle_event(self, subsystem: str | None) -> None:
        self.events += 1
        if subsystem is not None:
            self._on_event(subsystem)

    def _handle_overflow(self) -> None:
        self.overflows += 1
        with socket.socket(fileno=os.dup(self._monitor.fileno())) as duplicate:
            duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears the error
        self._on_event(None)

    def close(self) -> None:
        """Unsubscribes."""
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor = None
