"""
Calls move_pages(2), which tells the node of each page and moves pages.

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
_MPOL_MF_MOVE = 1 << 1  # moves pages of this process alone, not pages shared with others


def get_syscall_number() -> int | None:
    """Returns the system call's number on this processor, or None when it is unknown."""
    return _SYSCALL_NUMBERS.get(platform.machine())


def query_nodes(pid: int, addresses: Sequence[int]) -> list[int]:
    """Returns the node of each page, negative for an absent page; raises HandError."""
    return _call_move_pages(pid, addresses, None)


def move(pid: int, addresses: Sequence[int], node: int) -> list[int]:
    """Moves the pages and returns the new node of each, or a negative errno; raises HandError."""
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
    if result < 0:  # since Linux 4.17 a positive result counts the pages that could not be moved
        raise HandError(f"move_pages of process {pid}: {os.strerror(ctypes.get_errno())}")
    return list(status)
