"""
The door to move_pages(2): on which node each page of a process lies, asked without moving any.

Silent unless the machine is this one. Needs CAP_SYS_PTRACE, or to be the process's own user.
https://man7.org/linux/man-pages/man2/move_pages.2.html

The kernel looks the process up by its pid, which another may have by then. A pidfd that has not ended afterwards says
that it was the same one all the time, and its stack's address that it has not become another program by execve(2).
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

# asm/unistd.h; machines that are younger than 2011 share one table.
_NUMBERS = {"x86_64": 279, "aarch64": 239, "riscv64": 239, "loongarch64": 239, "ppc64le": 301, "s390x": 310}
_REASONS = {
    errno.ESRCH: "ended while it was asked",
    errno.EINVAL: "has no memory of its own: it is ending, or it is a thread of the kernel",
    errno.ENOSYS: "this kernel does not tell where pages are",
}


def sample_pages(host: Host, pid: int, start_time: int, pages: int) -> PageSample | None:
    """
    Asks for so many resident pages of a process, each as likely as any other.

    `started` says who had the pid when it was found (/proc/PID/stat, field 22). None, with a note, where the process
    may not be asked, has ended, or is another one by now.
    """
    if not host.live:
        return None
    subject = f"move_pages of {pid}"
    import numpy as np  # only hosts with an engine pay for it

    try:
        with _hold_process(pid) as ended:
            before = read_stat(host, pid)
            mapped = read_mappings(
                host, pid
            )  # after that look: else they could be those of the program that it was before
            if mapped is None:
                return None
            placement = draw_sample(
                mapped, mmap.PAGESIZE, pages, lambda addresses: query_nodes(pid, addresses), np.random.default_rng()
            )
            after = read_stat(host, pid)
            same = before is not None and after is not None and before.identity == after.identity
            if ended() or not same or before is None or before.start_time != start_time:
                return host.note(subject, "ended, or became another program, while it was asked")
    except OSError as error:
        return host.note(subject, _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0))
    except TooFewPagesError as too_few:
        return host.note(subject, str(too_few))
    return placement


def query_nodes(pid: int, addresses: Addresses) -> Nodes:
    """For each address the node of its page, or a negative errno where there is none. Raises OSError."""
    import numpy as np

    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "the number of move_pages is not known on this machine")
    nodes = np.full(len(addresses), -errno.ENOENT, dtype=np.int32)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (pid, len(addresses), addresses.ctypes.data, None, nodes.ctypes.data, 0)
    failed = syscall(ctypes.c_long(number), *map(_as_word, arguments))
    if failed < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return nodes


def _as_word(value: int | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)  # a plain int would be passed as 32 bits


@contextlib.contextmanager
def _hold_process(pid: int) -> Iterator[Callable[[], bool]]:
    """Holds on to whoever has the pid now, and gives the question whether it has ended since. Raises OSError."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        yield lambda: False  # before Linux 5.3 its start and its stack alone say who it is
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        yield lambda: bool(poll.poll(0))
    finally:
        os.close(descriptor)
