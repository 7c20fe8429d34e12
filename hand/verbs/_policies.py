"""
A word in a file of a CPU frequency policy, held by a lease: what governor and epp have in common.

https://docs.kernel.org/admin-guide/pm/cpufreq.html
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hand.arguments import Arguments
from hand.errors import ChangedError, HandError, RefusedError
from hand.leases import Lease
from hand.limits import Limit
from hand.verb import Bench, Ready, Result, Verb, hold

_FOLDER = "sys/devices/system/cpu/cpufreq"
_WORD = re.compile(r"[a-z0-9_]{1,32}")
MOST_POLICIES = 8192


def policy_verb(name: str, argument: str, file: str, choices: str) -> Verb:
    """The verb that sets `file` of a policy to one of the words that the kernel lists in `choices`."""

    def prepare(bench: Bench, arguments: Arguments) -> Ready:
        path = f"{_FOLDER}/policy{arguments.whole('policy', 0, MOST_POLICIES - 1)}"
        word = arguments.text(argument, _WORD, "a word of the kernel's")
        lease, ttl = arguments.lease()
        expected = arguments.optional_text("expected", _WORD, "a word of the kernel's, or null")
        arguments.done()
        if not bench.files.exists(f"{path}/{file}"):
            raise RefusedError(f"there is no {path}/{file} on this host")
        offered = bench.files.read(f"{path}/{choices}").split()
        if word not in offered:
            raise RefusedError(f"{argument}: the kernel offers {', '.join(offered)} for {path}, and not {word}")
        held = Lease(lease, name, f"{path}/{file}", "", word, 0.0)
        return lambda: _set(bench, held, ttl, expected)

    return Verb(name, Limit(4096, 600.0), prepare, _missing(file), _put_back, lapsed=_lapsed)


def _missing(file: str) -> Callable[[Bench], str]:
    def missing(bench: Bench) -> str:
        there = bench.files.exists(f"{_FOLDER}/policy0/{file}")
        return "" if there else f"no frequency policy of this host has {file}"

    return missing


def _set(bench: Bench, wanted: Lease, ttl: float, expected: str | None) -> Result:
    with bench.leases.lock:  # else the lease could end between being taken and the write, and nobody would put it back
        return _held(bench, wanted, ttl, expected)


def _held(bench: Bench, wanted: Lease, ttl: float, expected: str | None) -> Result:
    path = wanted.resource
    lease = hold(bench, wanted, ttl, expected, lambda: bench.files.read(path))
    try:
        bench.files.write(path, lease.ours)
        now = bench.files.read(path)
    except HandError:
        _give_up(bench, lease)
        raise
    if now != lease.ours:
        _give_up(bench, lease)
        raise HandError(f"{path}: {lease.ours} was written, and {now} is there")
    return {"prior": lease.prior, "now": now}


def _give_up(bench: Bench, lease: Lease) -> None:
    """Nothing was changed, or nothing that could be read back: what was there is written once more, and that is all."""
    bench.files.write(lease.resource, lease.prior)
    bench.leases.drop(lease.name)


def _lapsed(bench: Bench, lease: Lease) -> str:
    try:
        now = bench.files.read(lease.resource)
    except HandError as error:  # its processor is offline, and may come back with any governor
        return str(error)
    return "" if now == lease.ours else f"{lease.resource} is {now} and no longer {lease.ours}"


def _put_back(bench: Bench, lease: Lease) -> None:
    now = bench.files.read(lease.resource)
    if now == lease.prior:
        return
    if now != lease.ours:
        raise ChangedError(f"{lease.resource} is {now} and no longer {lease.ours}: somebody else changed it")
    bench.files.write(lease.resource, lease.prior)
