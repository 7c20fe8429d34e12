"""
compact: makes free memory of a node contiguous, so that huge pages can be had.

https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-devices-node (compact)
"""

from __future__ import annotations

import time

from hand.arguments import Arguments
from hand.errors import AmbiguousError
from hand.limits import Limit
from hand.verb import Bench, Ready, Result, Verb
from hand.verbs._nodes import node_file

LONGEST = 60.0  # seconds


def _prepare(bench: Bench, arguments: Arguments) -> Ready:
    path = node_file(bench, arguments, "compact")
    arguments.done()
    return lambda: _run(bench, path)


def _run(bench: Bench, path: str) -> Result:
    began = time.monotonic()
    if not bench.files.write_slowly(path, "1", LONGEST):
        raise AmbiguousError(f"compaction was ended after {LONGEST:g} s")
    return {"seconds": time.monotonic() - began}


def _missing(bench: Bench) -> str:
    return "" if bench.files.exists("sys/devices/system/node/node0/compact") else "the kernel cannot compact a node"


VERB = Verb("compact", Limit(12, 3600.0), _prepare, _missing)
