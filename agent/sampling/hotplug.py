"""
Hardware that comes and goes: the only pyudev of the house.

Listens to the kernel's own uevents, because a container or a minimal host has no udevd to pass them on. A full receive
buffer makes poll() raise an OSError without a number, for ever: clearing the socket's error mends it.
https://github.com/pyudev/pyudev/issues/194
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import structlog

# A uevent's subsystem, and the collectors that must look again.
COLLECTORS_BY_SUBSYSTEM: dict[str, tuple[str, ...]] = {
    "cpu": ("topology", "cpufreq", "thermal_throttle", "stat"),
    "memory": ("topology", "node_meminfo"),
    "node": ("topology", "node_meminfo", "numastat"),
    "hwmon": ("hwmon",),
    "edac": ("edac",),
    "ipmi": ("ipmi",),
    "powercap": ("powercap",),
}
RECEIVE_BUFFER = 8 << 20  # bytes: onlining the memory of a large host sends thousands of events at once
MAX_EVENTS_PER_TURN = 256  # events handled before the event loop gets its turn


def load_pyudev() -> tuple[Any, Any]:
    """
    pyudev and a context of it; ImportError without libudev.

    pyudev looks for the library by ctypes.util, which runs ldconfig and compilers; a service that may execute nothing
    would find none. The name is the library's own since 2011.
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
    """A subscription to uevents; `changed` is called with the collectors that must look again."""

    def __init__(self, on_change: Callable[[tuple[str, ...]], None], *, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self._on_change = on_change
        self._receive_buffer = receive_buffer
        self._monitor: Any = None
        self._log = structlog.get_logger()
        self.overflows = 0
        self.events = 0

    def start(self) -> bool:
        """Subscribes; False, and one line that says why, where uevents are out of reach."""
        try:
            pyudev, context = load_pyudev()
            monitor = pyudev.Monitor.from_netlink(context, source="kernel")
            self._enlarge_buffer(monitor)
            monitor.start()
        except (ImportError, OSError) as error:
            self._log.info(
                "no news of hardware that comes and goes; it is found at the next slow pass", reason=str(error)
            )
            return False
        self._monitor = monitor
        asyncio.get_running_loop().add_reader(monitor.fileno(), self._read_events)
        return True

    def _enlarge_buffer(self, monitor: Any) -> None:
        try:
            monitor.set_receive_buffer_size(self._receive_buffer)
        except PermissionError:  # beyond net.core.rmem_max only with CAP_NET_ADMIN, which a service has not
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
        if names := COLLECTORS_BY_SUBSYSTEM.get(subsystem or ""):
            self._on_change(names)

    def _handle_overflow(self) -> None:
        self.overflows += 1
        with socket.socket(fileno=os.dup(self._monitor.fileno())) as duplicate:
            duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # reading the error clears it
        # Events were lost, so anything may have changed.
        self._on_change(tuple(sorted({name for names in COLLECTORS_BY_SUBSYSTEM.values() for name in names})))

    def close(self) -> None:
        """Unsubscribes."""
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor = None
