"""The contract of a verb, all of it; each is one file in `verbs/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hand.arguments import Arguments
from hand.config import HandConfig
from hand.errors import ValueChangedError
from hand.files import KernelFiles
from hand.leases import Lease, LeaseStore
from hand.limits import RateLimit

JsonObject = dict[str, Any]
Operation = Callable[[], JsonObject]
"""A checked request; calling it does it."""


@dataclass(frozen=True, slots=True)
class VerbContext:
    """What a verb works with."""

    files: KernelFiles
    config: HandConfig
    leases: LeaseStore
    cycles: dict[str, Any] = field(default_factory=dict)
    """The duty cycles that are running, by the resource they hold."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that the hand can do."""

    name: str
    limit: RateLimit
    prepare: Callable[[VerbContext, Arguments], Operation]
    """Checks all arguments and gives what is to be done; raises HandError."""
    check_support: Callable[[VerbContext], str]
    """Why the verb is of no use on this host; empty where it is."""
    restore: Callable[[VerbContext, Lease], None] | None = None
    """Puts back what a lease of this verb holds; ChangedError where the value is no longer ours."""
    resume: Callable[[VerbContext, Lease], None] | None = None
    """Goes on with a lease that an earlier hand took."""
    check_lease: Callable[[VerbContext, Lease], str] | None = None
    """Why what a lease holds is not held just now; empty where it is."""


def acquire_lease(
    context: VerbContext, lease: Lease, ttl: float, expected: str | None, read: Callable[[], str]
) -> Lease:
    """
    Writes down a lease before anything is changed: its prior value is the one found now, or the first holder's.

    ChangedError where what is there is neither what the caller expected nor what we set ourselves.
    """
    with context.leases.lock:
        current, previous = read(), context.leases.find_by_resource(lease.resource)
        is_ours = previous is not None and current == previous.ours
        if expected is not None and current != expected and not is_ours:
            raise ValueChangedError(f"{lease.resource} is {current!r} now, and not {expected!r} as was expected")
        prior = previous.prior if previous is not None and is_ours else current
        return context.leases.acquire(
            Lease(lease.name, lease.verb, lease.resource, prior, lease.ours, 0.0),
            ttl,
        )
