"""
reclaim: asks the kernel to give back so many bytes of a node, or of a unit's cgroup.

https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.reclaim)
"""

from __future__ import annotations

import errno
import os
import time

from hand.arguments import Arguments
from hand.errors import HandError
from hand.limits import Limit
from hand.verb import Bench, Ready, Result, Verb
from hand.verbs._nodes import node_file
from hand.verbs._units import unit_file, unit_for

LEAST, MOST = 1 << 20, 1 << 40  # bytes
LONGEST = 60.0  # seconds
_LESS = os.strerror(errno.EAGAIN)  # how the kernel says that it gave back less than was asked


def _prepare(bench: Bench, arguments: Arguments) -> Ready:
    if arguments.has("unit"):
        _, unit = unit_for(bench, arguments, "reclaim")
        path = unit_file(bench, unit, "memory.reclaim")
    else:
        path = node_file(bench, arguments, "reclaim")
    size = arguments.whole("bytes", LEAST, MOST)
    arguments.done()
    return lambda: _run(bench, path, size)


def _run(bench: Bench, path: str, size: int) -> Result:
    began, whole = time.monotonic(), True
    try:
        whole = bench.files.write_slowly(path, str(size), LONGEST)
    except HandError as error:
        if not str(error).endswith(_LESS):
            raise
        whole = False
    return {"seconds": time.monotonic() - began, "asked_bytes": size, "whole": whole}


def _missing(bench: Bench) -> str:
    if bench.files.exists("sys/devices/system/node/node0/reclaim"):
        return ""
    if any(unit.reclaim for unit in bench.config.units.values()):
        return ""
    return "the kernel has no reclaim per node, and hand.toml names no unit for it"


VERB = Verb("reclaim", Limit(60, 3600.0), _prepare, _missing)
