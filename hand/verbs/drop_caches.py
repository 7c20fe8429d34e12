"""
drop_caches: gives back clean page cache that no process has mapped, on the whole host.

Level 1 only: dentries and inodes stay, and nothing is synced before. https://docs.kernel.org/admin-guide/sysctl/vm.html
"""

from __future__ import annotations

import time

from hand.arguments import Arguments
from hand.errors import AmbiguousError
from hand.limits import Limit
from hand.verb import Bench, Ready, Result, Verb

FILE = "proc/sys/vm/drop_caches"
LONGEST = 60.0  # seconds; 100 GB take about 10


def _prepare(bench: Bench, arguments: Arguments) -> Ready:
    arguments.done()
    return lambda: _run(bench)


def _run(bench: Bench) -> Result:
    before, began = bench.files.free_bytes(), time.monotonic()
    if not bench.files.write_slowly(FILE, "1", LONGEST):
        raise AmbiguousError(f"dropping caches was ended after {LONGEST:g} s; what was dropped by then is dropped")
    seconds = time.monotonic() - began
    return {"seconds": seconds, "freed_bytes": bench.files.free_bytes() - before}


def _missing(bench: Bench) -> str:
    return "" if bench.files.exists(FILE) else f"the kernel has no {FILE}"


VERB = Verb("drop_caches", Limit(6, 3600.0), _prepare, _missing)
