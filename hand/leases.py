"""
What is held on this host, until when, and what was there before; written down before anything is changed.

The clock is CLOCK_BOOTTIME, which goes on while the host sleeps and is the same for every process of a boot, so that a
hand that is started again knows what is left of a lease. What a reboot resets needs no putting back.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hand.errors import HandError, HandRefusedError, LimitExceededError

MAX_LEASES = 1024  # leases: one per frequency policy of a large host and some more
FILE_NAME = "leases.json"

Restore = Callable[["Lease"], None]


@dataclass(frozen=True, slots=True)
class Lease:
    """One thing that is held: `ours` is what it was set to, `prior` what is put back."""

    name: str
    verb: str
    resource: str
    prior: str
    ours: str
    until: float
    """On CLOCK_BOOTTIME, in seconds."""


def read_boot_clock() -> float:
    """Seconds since this host was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseStore:
    """All that is held, on disk and in memory; for several threads."""

    def __init__(self, folder: Path, boot_id: str, clock: Callable[[], float] = read_boot_clock) -> None:
        """Takes up what an earlier hand of the same boot left; HandError where the file cannot be believed."""
        self._path = folder / FILE_NAME
        self._boot_id = boot_id
        self._clock = clock
        self._lock = threading.RLock()
        self._by_name: dict[str, Lease] = {lease.name: lease for lease in self._read_file()}

    @property
    def lock(self) -> threading.RLock:
        """Held while something is read, changed and written down as one."""
        return self._lock

    def list_all(self) -> list[Lease]:
        """Every lease."""
        with self._lock:
            return list(self._by_name.values())

    def get_remaining(self, lease: Lease) -> float:
        """Seconds until it ends."""
        return max(0.0, lease.until - self._clock())

    def get(self, name: str) -> Lease | None:
        """The lease of that name."""
        return self._by_name.get(name)

    def find_by_resource(self, resource: str) -> Lease | None:
        """The lease that holds a resource."""
        with self._lock:
            return next((lease for lease in self._by_name.values() if lease.resource == resource), None)

    def acquire(self, lease: Lease, ttl: float) -> Lease:
        """
        Writes down that a resource is about to be held; a lease on the same resource is replaced by it.

        RefusedError where the name holds another resource, which would be forgotten and never put back.
        """
        with self._lock:
            previous, same_name = self.find_by_resource(lease.resource), self.get(lease.name)
            if same_name is not None and same_name.resource != lease.resource:
                raise HandRefusedError(
                    f"lease {lease.name} holds {same_name.resource} already; another needs another name"
                )
            if previous is None and len(self._by_name) >= MAX_LEASES:
                raise LimitExceededError(f"{MAX_LEASES} leases are held already")
            leases = {name: other for name, other in self._by_name.items() if previous is None or name != previous.name}
            leases[lease.name] = acquired = replace(lease, until=self._clock() + ttl)
            self._write_file(leases)
            return acquired

    def renew(self, names: list[str], ttl: float) -> tuple[list[str], list[str]]:
        """Those that go on for so many seconds, and those that are not held."""
        with self._lock:
            renewed = [name for name in names if name in self._by_name]
            until = self._clock() + ttl
            self._write_file({**self._by_name, **{name: replace(self._by_name[name], until=until) for name in renewed}})
            return renewed, [name for name in names if name not in self._by_name]

    def remove(self, name: str) -> None:
        """No longer held."""
        with self._lock:
            self._write_file({other: lease for other, lease in self._by_name.items() if other != name})

    def list_expired(self) -> list[Lease]:
        """Those whose time is up."""
        now = self._clock()
        return [lease for lease in self.list_all() if lease.until <= now]

    def get_next_expiry(self) -> float | None:
        """Seconds until the first lease ends; None where nothing is held."""
        return min((self.get_remaining(lease) for lease in self.list_all()), default=None)

    def _read_file(self) -> list[Lease]:
        try:
            stored = json.loads(self._path.read_text())
            if stored["boot_id"] != self._boot_id:
                return []
            return [Lease(**fields) for fields in stored["leases"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HandError(f"{self._path} cannot be read ({error}); look what it holds, then remove it") from error

    def _write_file(self, leases: dict[str, Lease]) -> None:
        text = json.dumps({"boot_id": self._boot_id, "leases": [asdict(lease) for lease in leases.values()]})
        new_path = self._path.with_suffix(".new")
        try:
            with new_path.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new_path.replace(self._path)
        except OSError as error:
            raise HandError(f"{self._path}: {error.strerror}; nothing was changed") from error
        self._by_name = leases
