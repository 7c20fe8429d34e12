"""
compact: makes the free memory of a node contiguous, so that the kernel can allocate huge pages.

https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-devices-node (compact)
"""

from __future__ import annotations

import time

from hand.arguments import Arguments
from hand.errors import AmbiguousOutcomeError
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext
from hand.verbs._nodes import resolve_node_file

TIMEOUT = 60.0  # seconds


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    path = resolve_node_file(context, arguments, "compact")
    arguments.reject_unknown()
    return lambda: _run(context, path)


def _run(context: VerbContext, path: str) -> JsonObject:
    started = time.monotonic()
    if not context.files.write_with_timeout(path, "1", TIMEOUT):
        raise AmbiguousOutcomeError(f"compaction was stopped after {TIMEOUT:g} s")
    return {"seconds": time.monotonic() - started}


def _check_support(context: VerbContext) -> str:
    return "" if context.files.exists("sys/devices/system/node/node0/compact") else "the kernel cannot compact a node"


VERB = Verb("compact", RateLimit(12, 3600.0), _prepare, _check_support)
