"""
Sets a word in a file of a CPU frequency policy under a lease; governor and epp share this.

https://docs.kernel.org/admin-guide/pm/cpufreq.html
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hand.arguments import Arguments
from hand.errors import HandError, HandRefusedError, ValueChangedError
from hand.leases import Lease
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext, acquire_lease

_CPUFREQ_FOLDER = "sys/devices/system/cpu/cpufreq"
_WORD = re.compile(r"[a-z0-9_]{1,32}")
MAX_POLICIES = 8192


def make_policy_verb(name: str, argument: str, file_name: str, choices_file: str) -> Verb:
    """Returns the verb that sets `file_name` of a policy to one of the words listed in `choices_file`."""

    def prepare(context: VerbContext, arguments: Arguments) -> Operation:
        path = f"{_CPUFREQ_FOLDER}/policy{arguments.take_integer('policy', 0, MAX_POLICIES - 1)}"
        word = arguments.take_text(argument, _WORD, "a word of the kernel's")
        lease_name, ttl = arguments.take_lease()
        expected = arguments.take_optional_text("expected", _WORD, "a word of the kernel's, or null")
        arguments.reject_unknown()
        if not context.files.exists(f"{path}/{file_name}"):
            raise HandRefusedError(f"there is no {path}/{file_name} on this host")
        offered = context.files.read(f"{path}/{choices_file}").split()
        if word not in offered:
            raise HandRefusedError(f"{argument}: the kernel offers {', '.join(offered)} for {path}, and not {word}")
        requested = Lease(lease_name, name, f"{path}/{file_name}", "", word, 0.0)
        return lambda: _set_under_lock(context, requested, ttl, expected)

    return Verb(
        name, RateLimit(4096, 600.0), prepare, _make_support_check(file_name), _restore, check_lease=_check_lease
    )


def _make_support_check(file_name: str) -> Callable[[VerbContext], str]:
    def check_support(context: VerbContext) -> str:
        is_present = context.files.exists(f"{_CPUFREQ_FOLDER}/policy0/{file_name}")
        return "" if is_present else f"no frequency policy of this host has {file_name}"

    return check_support


def _set_under_lock(context: VerbContext, requested: Lease, ttl: float, expected: str | None) -> JsonObject:
    # Without the lock the lease could expire before the write, and the value would never be restored.
    with context.leases.lock:
        return _set_word(context, requested, ttl, expected)


def _set_word(context: VerbContext, requested: Lease, ttl: float, expected: str | None) -> JsonObject:
    path = requested.resource
    lease = acquire_lease(context, requested, ttl, expected, lambda: context.files.read(path))
    try:
        context.files.write(path, lease.ours)
        current = context.files.read(path)
    except HandError:
        _roll_back(context, lease)
        raise
    if current != lease.ours:
        _roll_back(context, lease)
        raise HandError(f"{path}: the hand wrote {lease.ours} and read back {current}")
    return {"prior": lease.prior, "now": current}


def _roll_back(context: VerbContext, lease: Lease) -> None:
    """Writes the prior value once more and forgets the lease, after a failed write or read-back."""
    context.files.write(lease.resource, lease.prior)
    context.leases.remove(lease.name)


def _check_lease(context: VerbContext, lease: Lease) -> str:
    try:
        current = context.files.read(lease.resource)
    except HandError as error:  # an offline processor may come back with any governor
        return str(error)
    return "" if current == lease.ours else f"{lease.resource} is {current} and no longer {lease.ours}"


def _restore(context: VerbContext, lease: Lease) -> None:
    current = context.files.read(lease.resource)
    if current == lease.prior:
        return
    if current != lease.ours:
        raise ValueChangedError(f"{lease.resource} is {current} and no longer {lease.ours}: somebody else changed it")
    context.files.write(lease.resource, lease.prior)
