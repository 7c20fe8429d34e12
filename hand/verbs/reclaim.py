"""
reclaim: asks the kernel to reclaim a number of bytes from a node or from a unit's cgroup.

https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.reclaim)
"""

from __future__ import annotations

import errno
import os
import time

from hand.arguments import Arguments
from hand.errors import HandError
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext
from hand.verbs._nodes import resolve_node_file
from hand.verbs._units import get_permitted_unit, resolve_unit_file

MIN_BYTES, MAX_BYTES = 1 << 20, 1 << 40  # bytes
TIMEOUT = 60.0  # seconds
_EAGAIN_TEXT = os.strerror(errno.EAGAIN)  # the kernel's answer when it reclaimed less than requested


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    if arguments.has("unit"):
        _, unit = get_permitted_unit(context, arguments, "reclaim")
        path = resolve_unit_file(context, unit, "memory.reclaim")
    else:
        path = resolve_node_file(context, arguments, "reclaim")
    size = arguments.take_integer("bytes", MIN_BYTES, MAX_BYTES)
    arguments.reject_unknown()
    return lambda: _run(context, path, size)


def _run(context: VerbContext, path: str, size: int) -> JsonObject:
    started, complete = time.monotonic(), True
    try:
        complete = context.files.write_with_timeout(path, str(size), TIMEOUT)
    except HandError as error:
        if not str(error).endswith(_EAGAIN_TEXT):
            raise
        complete = False
    return {"seconds": time.monotonic() - started, "asked_bytes": size, "whole": complete}


def _check_support(context: VerbContext) -> str:
    if context.files.exists("sys/devices/system/node/node0/reclaim"):
        return ""
    if any(unit.reclaim for unit in context.config.units.values()):
        return ""
    return "the kernel has no reclaim per node, and hand.toml names no unit for it"


VERB = Verb("reclaim", RateLimit(60, 3600.0), _prepare, _check_support)
