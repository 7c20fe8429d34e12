"""
Stores the leases: each held resource, its expiry and its prior value, saved before the resource is changed.

The clock is CLOCK_BOOTTIME, which continues while the host sleeps and is the same for every process of a boot. So a
restarted hand knows the remaining time of a lease. A reboot resets the resources and needs no restore.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hand.errors import HandError, HandRefusedError, LimitExceededError

MAX_LEASES = 1024  # leases: one per frequency policy of a large host and some more
FILE_NAME = "leases.json"


@dataclass(frozen=True, slots=True)
class Lease:
    """A held resource: the hand set it to `ours` and restores `prior`."""

    name: str
    verb: str
    resource: str
    prior: str
    ours: str
    until: float
    """The expiry on CLOCK_BOOTTIME, in seconds."""


def read_boot_clock() -> float:
    """Returns the seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseStore:
    """All leases, on disk and in memory; safe for several threads."""

    def __init__(self, folder: Path, boot_id: str, clock: Callable[[], float] = read_boot_clock) -> None:
        """Loads the leases that an earlier hand of the same boot left; raises HandError when the file is damaged."""
        self._path = folder / FILE_NAME
        self._boot_id = boot_id
        self._clock = clock
        self._lock = threading.RLock()
        self._defers_writes = False
        self._by_name: dict[str, Lease] = {lease.name: lease for lease in self._read_file()}

    @property
    def lock(self) -> threading.RLock:
        """Makes a sequence of reads and writes atomic for the caller."""
        return self._lock

    def list_all(self) -> list[Lease]:
        """Returns every lease."""
        with self._lock:
            return list(self._by_name.values())

    def get_remaining(self, lease: Lease) -> float:
        """Returns the seconds until the lease expires."""
        return max(0.0, lease.until - self._clock())

    def get(self, name: str) -> Lease | None:
        """Returns the lease of that name."""
        return self._by_name.get(name)

    def find_by_resource(self, resource: str) -> Lease | None:
        """Returns the lease that holds a resource."""
        with self._lock:
            return next((lease for lease in self._by_name.values() if lease.resource == resource), None)

    def acquire(self, lease: Lease, ttl: float) -> Lease:
        """
        Saves a new lease before its resource is changed; it replaces an earlier lease on the same resource.

        Raises HandRefusedError when the name holds another resource, which would otherwise never be restored.
        """
        with self._lock:
            previous, same_name = self.find_by_resource(lease.resource), self.get(lease.name)
            if same_name is not None and same_name.resource != lease.resource:
                raise HandRefusedError(f"lease {lease.name} holds {same_name.resource} already; choose another name")
            if previous is None and len(self._by_name) >= MAX_LEASES:
                raise LimitExceededError(f"{MAX_LEASES} leases are held already")
            leases = {name: other for name, other in self._by_name.items() if previous is None or name != previous.name}
            leases[lease.name] = acquired = replace(lease, until=self._clock() + ttl)
            self._write_file(leases)
            return acquired

    def renew(self, names: list[str], ttl: float) -> tuple[list[str], list[str]]:
        """Extends the leases to `ttl` seconds from now; returns the renewed names and the unknown names."""
        with self._lock:
            renewed = [name for name in names if name in self._by_name]
            until = self._clock() + ttl
            self._write_file({**self._by_name, **{name: replace(self._by_name[name], until=until) for name in renewed}})
            return renewed, [name for name in names if name not in self._by_name]

    def remove(self, name: str) -> None:
        """Forgets a lease."""
        with self._lock:
            self._write_file({other: lease for other, lease in self._by_name.items() if other != name})

    @contextlib.contextmanager
    def deferred_writes(self) -> Iterator[None]:
        """
        Removes leases in memory for the duration of the block, and writes the file once at its end.

        A file that is written for each of a thousand leases takes a slow disk longer than systemd waits. Restoring a
        lease twice, after a kill in the middle, changes nothing.
        """
        with self._lock:
            self._defers_writes = True
            try:
                yield
            finally:
                self._defers_writes = False
                self._write_file(self._by_name)

    def list_expired(self) -> list[Lease]:
        """Returns the leases that have expired."""
        now = self._clock()
        return [lease for lease in self.list_all() if lease.until <= now]

    def get_next_expiry(self) -> float | None:
        """Returns the seconds until the first lease expires, or None without leases."""
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
            raise HandError(
                f"{self._path} cannot be read ({error}); restore the resources it names, then remove it"
            ) from error

    def _write_file(self, leases: dict[str, Lease]) -> None:
        if self._defers_writes:
            self._by_name = leases
            return
        text = json.dumps({"boot_id": self._boot_id, "leases": [asdict(lease) for lease in leases.values()]})
        new_path = self._path.with_suffix(".new")
        try:
            with new_path.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new_path.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise HandError(f"{self._path}: {error.strerror}; nothing was changed") from error
        self._by_name = leases


def _sync_folder(folder: Path) -> None:
    """Makes the kernel write a file's new name to the disk, which it else does some seconds after the file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # some file systems in user space cannot sync a folder
        os.fsync(descriptor)
    os.close(descriptor)
