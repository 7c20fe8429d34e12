"""The contract of a verb; each verb is one file in `verbs/`."""

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
"""A checked request; the call carries it out."""


@dataclass(frozen=True, slots=True)
class VerbContext:
    """The files, configuration and leases that verbs share."""

    files: KernelFiles
    config: HandConfig
    leases: LeaseStore
    cycles: dict[str, Any] = field(default_factory=dict)
    """The running duty cycles by their resource."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One operation of the hand, with its checks and its lease handling."""

    name: str
    limit: RateLimit
    prepare: Callable[[VerbContext, Arguments], Operation]
    """Checks all arguments and returns the operation; raises HandError."""
    check_support: Callable[[VerbContext], str]
    """Returns why this host does not support the verb; empty when it does."""
    restore: Callable[[VerbContext, Lease], None] | None = None
    """Restores the resource of a lease; raises ValueChangedError when somebody else changed the value."""
    resume: Callable[[VerbContext, Lease], None] | None = None
    """Resumes a lease that an earlier hand acquired."""
    check_lease: Callable[[VerbContext, Lease], str] | None = None
    """Returns why a lease's resource is not in its leased state; empty when it is."""
    value_name: str = ""
    """The words before a lease's value in the log, where that is not the text of the file."""


def acquire_lease(
    context: VerbContext, lease: Lease, ttl: float, expected: str | None, read: Callable[[], str]
) -> Lease:
    """
    Saves a lease before its resource is changed; the prior value is the current one, or that of the first holder.

    Raises ValueChangedError when the current value is neither the caller's expected one nor set by the hand.
    """
    with context.leases.lock:
        current, previous = read(), context.leases.find_by_resource(lease.resource)
        is_ours = previous is not None and current == previous.ours
        if expected is not None and current != expected and not is_ours:
            raise ValueChangedError(f"{lease.resource} is {current!r} now, and not {expected!r} as expected")
        prior = previous.prior if previous is not None and is_ours else current
        return context.leases.acquire(
            Lease(lease.name, lease.verb, lease.resource, prior, lease.ours, 0.0),
            ttl,
        )
