"""
The door to move_pages(2): on which nodes pages lie, and moving them.

https://man7.org/linux/man-pages/man2/move_pages.2.html
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence

from hand.errors import HandError

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_SYSCALL_NUMBERS = {"x86_64": 279, "aarch64": 239}
_MPOL_MF_MOVE = 1 << 1  # MPOL_MF_MOVE: pages of this process alone, not those that it shares with others


def get_syscall_number() -> int | None:
    """The system call's number here; None where it is not known."""
    return _SYSCALL_NUMBERS.get(platform.machine())


def query_nodes(pid: int, addresses: Sequence[int]) -> list[int]:
    """The node of each page; negative where it is not there. HandError where the kernel refuses."""
    return _call_move_pages(pid, addresses, None)


def move(pid: int, addresses: Sequence[int], node: int) -> list[int]:
    """Moves the pages; for each the node where it is now, or negative. HandError where the kernel refuses."""
    return _call_move_pages(pid, addresses, node)


def _call_move_pages(pid: int, addresses: Sequence[int], node: int | None) -> list[int]:
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    status = (ctypes.c_int * count)()
    nodes = None if node is None else (ctypes.c_int * count)(*([node] * count))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = (ctypes.c_int(pid), ctypes.c_ulong(count), pages, nodes, status, ctypes.c_int(_MPOL_MF_MOVE))
    result = libc.syscall(ctypes.c_long(get_syscall_number() or -1), *arguments)
    if result < 0:  # positive is the number of pages that could not be moved, since Linux 4.17
        raise HandError(f"move_pages of process {pid}: {os.strerror(ctypes.get_errno())}")
    return list(status)
