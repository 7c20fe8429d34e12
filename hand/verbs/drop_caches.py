"""
drop_caches: frees the clean page cache that no process has mapped, on the whole host.

Level 1 only: dentries and inodes stay, and dirty pages are not synced. https://docs.kernel.org/admin-guide/sysctl/vm.html
"""

from __future__ import annotations

import time

from hand.arguments import Arguments
from hand.errors import AmbiguousOutcomeError
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext

DROP_CACHES_FILE = "proc/sys/vm/drop_caches"
TIMEOUT = 60.0  # seconds; 100 GB take about 10


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    arguments.reject_unknown()
    return lambda: _run(context)


def _run(context: VerbContext) -> JsonObject:
    free_before, started = context.files.read_free_bytes(), time.monotonic()
    if not context.files.write_with_timeout(DROP_CACHES_FILE, "1", TIMEOUT):
        raise AmbiguousOutcomeError(
            f"dropping caches was stopped after {TIMEOUT:g} s; part of the page cache may be dropped"
        )
    seconds = time.monotonic() - started
    return {"seconds": seconds, "freed_bytes": context.files.read_free_bytes() - free_before}


def _check_support(context: VerbContext) -> str:
    return "" if context.files.exists(DROP_CACHES_FILE) else f"the kernel has no {DROP_CACHES_FILE}"


VERB = Verb("drop_caches", RateLimit(6, 3600.0), _prepare, _check_support)
