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

from hand.errors import HandError, LimitedError, RefusedError

MOST = 1024  # leases: one per frequency policy of a large host and some more
FILE = "leases.json"

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


def boot_time() -> float:
    """Seconds since this host was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leases:
    """All that is held, on disk and in memory; for several threads."""

    def __init__(self, folder: Path, boot_id: str, clock: Callable[[], float] = boot_time) -> None:
        """Takes up what an earlier hand of the same boot left; HandError where the file cannot be believed."""
        self._path = folder / FILE
        self._boot_id = boot_id
        self._clock = clock
        self._lock = threading.RLock()
        self._held: dict[str, Lease] = {lease.name: lease for lease in self._read()}

    @property
    def lock(self) -> threading.RLock:
        """Held while something is read, changed and written down as one."""
        return self._lock

    def all(self) -> list[Lease]:
        """Every lease."""
        with self._lock:
            return list(self._held.values())

    def left(self, lease: Lease) -> float:
        """Seconds until it ends."""
        return max(0.0, lease.until - self._clock())

    def get(self, name: str) -> Lease | None:
        """The lease of that name."""
        return self._held.get(name)

    def on(self, resource: str) -> Lease | None:
        """The lease that holds a resource."""
        with self._lock:
            return next((lease for lease in self._held.values() if lease.resource == resource), None)

    def take(self, lease: Lease, ttl: float) -> Lease:
        """
        Writes down that a resource is about to be held; a lease on the same resource is replaced by it.

        RefusedError where the name holds another resource, which would be forgotten and never put back.
        """
        with self._lock:
            before, named = self.on(lease.resource), self.get(lease.name)
            if named is not None and named.resource != lease.resource:
                raise RefusedError(f"lease {lease.name} holds {named.resource} already; another needs another name")
            if before is None and len(self._held) >= MOST:
                raise LimitedError(f"{MOST} leases are held already")
            kept = {name: each for name, each in self._held.items() if before is None or name != before.name}
            kept[lease.name] = taken = replace(lease, until=self._clock() + ttl)
            self._write(kept)
            return taken

    def renew(self, names: list[str], ttl: float) -> tuple[list[str], list[str]]:
        """Those that go on for so many seconds, and those that are not held."""
        with self._lock:
            known = [name for name in names if name in self._held]
            until = self._clock() + ttl
            self._write({**self._held, **{name: replace(self._held[name], until=until) for name in known}})
            return known, [name for name in names if name not in self._held]

    def drop(self, name: str) -> None:
        """No longer held."""
        with self._lock:
            self._write({other: lease for other, lease in self._held.items() if other != name})

    def ended(self) -> list[Lease]:
        """Those whose time is up."""
        now = self._clock()
        return [lease for lease in self.all() if lease.until <= now]

    def next_end(self) -> float | None:
        """Seconds until the first lease ends; None where nothing is held."""
        return min((self.left(lease) for lease in self.all()), default=None)

    def _read(self) -> list[Lease]:
        try:
            stored = json.loads(self._path.read_text())
            if stored["boot_id"] != self._boot_id:
                return []
            return [Lease(**each) for each in stored["leases"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HandError(f"{self._path} cannot be read ({error}); look what it holds, then remove it") from error

    def _write(self, held: dict[str, Lease]) -> None:
        text = json.dumps({"boot_id": self._boot_id, "leases": [asdict(lease) for lease in held.values()]})
        new = self._path.with_suffix(".new")
        try:
            with new.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise HandError(f"{self._path}: {error.strerror}; nothing was changed") from error
        self._held = held
