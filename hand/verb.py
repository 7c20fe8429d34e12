"""The contract of a verb, all of it; each is one file in `verbs/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hand.arguments import Arguments
from hand.config import Config
from hand.errors import ChangedError
from hand.files import Files
from hand.leases import Lease, Leases
from hand.limits import Limit

Result = dict[str, Any]
Ready = Callable[[], Result]
"""A checked request; calling it does it."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a verb works with."""

    files: Files
    config: Config
    leases: Leases
    cycles: dict[str, Any] = field(default_factory=dict)
    """The duty cycles that are running, by the resource they hold."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that the hand can do."""

    name: str
    limit: Limit
    prepare: Callable[[Bench, Arguments], Ready]
    """Checks all arguments and gives what is to be done; raises HandError."""
    missing: Callable[[Bench], str]
    """Why the verb is of no use on this host; empty where it is."""
    undo: Callable[[Bench, Lease], None] | None = None
    """Puts back what a lease of this verb holds; ChangedError where the value is no longer ours."""
    resume: Callable[[Bench, Lease], None] | None = None
    """Goes on with a lease that an earlier hand took."""
    lapsed: Callable[[Bench, Lease], str] | None = None
    """Why what a lease holds is not held just now; empty where it is."""


def hold(bench: Bench, lease: Lease, ttl: float, expected: str | None, read: Callable[[], str]) -> Lease:
    """
    Writes down a lease before anything is changed: its prior value is the one found now, or the first holder's.

    ChangedError where what is there is neither what the caller expected nor what we set ourselves.
    """
    with bench.leases.lock:
        now, before = read(), bench.leases.on(lease.resource)
        ours = before is not None and now == before.ours
        if expected is not None and now != expected and not ours:
            raise ChangedError(f"{lease.resource} is {now!r} now, and not {expected!r} as was expected")
        prior = before.prior if before is not None and ours else now
        return bench.leases.take(
            Lease(lease.name, lease.verb, lease.resource, prior, lease.ours, 0.0),
            ttl,
        )
