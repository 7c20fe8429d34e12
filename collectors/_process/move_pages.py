"""
Asks the kernel, by move_pages(2), on which node each page of a process lies, without moving any page.

Returns nothing where the root is not `/`. Needs CAP_SYS_PTRACE, or to be the process's own user.
https://man7.org/linux/man-pages/man2/move_pages.2.html

The kernel finds the process by its pid, which another process may have taken meanwhile. A pidfd that has not ended
afterwards proves that it was the same process; its stack's address proves that it did not call execve(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import select
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from collectors._host.host import Host
from collectors._process.maps import read_mappings
from collectors._process.page_sample import PageSample, TooFewPagesError, draw_sample
from collectors._process.stat import read_stat

if TYPE_CHECKING:
    from collectors._process.page_sample import Addresses, Nodes

# asm/unistd.h; architectures added after 2011 share one table.
_NUMBERS = {"x86_64": 279, "aarch64": 239, "riscv64": 239, "loongarch64": 239, "ppc64le": 301, "s390x": 310}
_REASONS = {
    errno.ESRCH: "ended during the query",
    errno.EINVAL: "has no memory of its own: it is ending, or it is a kernel thread",
    errno.ENOSYS: "this kernel has no move_pages",
}


def sample_pages(host: Host, pid: int, start_time: int, pages: int) -> PageSample | None:
    """
    Samples this many resident pages of a process, each with the same probability.

    `start_time` identifies the process that had the pid (/proc/PID/stat, field 22). Returns None, with a note, where
    the process may not be queried, has ended, or has been replaced.
    """
    if not host.live:
        return None
    subject = f"move_pages of {pid}"
    import numpy as np  # imported only on hosts with an engine

    try:
        with _hold_process(pid) as ended:
            before = read_stat(host, pid)
            mapped = read_mappings(host, pid)  # after read_stat: else they could belong to the program before execve(2)
            if mapped is None:
                return None
            placement = draw_sample(
                mapped, mmap.PAGESIZE, pages, lambda addresses: query_nodes(pid, addresses), np.random.default_rng()
            )
            after = read_stat(host, pid)
            same = before is not None and after is not None and before.identity == after.identity
            if ended() or not same or before is None or before.start_time != start_time:
                return host.note(subject, "ended, or became another program, during the query")
    except OSError as error:
        return host.note(subject, _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0))
    except TooFewPagesError as too_few:
        return host.note(subject, str(too_few))
    return placement


def query_nodes(pid: int, addresses: Addresses) -> Nodes:
    """Returns the node of the page at each address, or a negative errno where there is none. Raises OSError."""
    import numpy as np

    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "the number of move_pages is not known on this machine")
    nodes = np.full(len(addresses), -errno.ENOENT, dtype=np.int32)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (pid, len(addresses), addresses.ctypes.data, None, nodes.ctypes.data, 0)
    failed = syscall(ctypes.c_long(number), *map(_to_word, arguments))
    if failed < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return nodes


def _to_word(value: int | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)  # ctypes would pass a plain int as 32 bits


@contextlib.contextmanager
def _hold_process(pid: int) -> Iterator[Callable[[], bool]]:
    """Holds the process that has the pid now; yields a function that returns True once it has ended. Raises OSError."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        yield lambda: False  # before Linux 5.3 only start time and stack identify it
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        yield lambda: bool(poll.poll(0))
    finally:
        os.close(descriptor)
