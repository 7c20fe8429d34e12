"""
The kernel's calls for memory policies and the nodes of pages, through libc's syscall(2), without libnuma.

https://docs.kernel.org/admin-guide/mm/numa_memory_policy.html; set_mempolicy(2), get_mempolicy(2), move_pages(2).
A policy applies to the thread that sets it and to threads started later; so the engine sets it before it imports NumPy.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

# https://github.com/torvalds/linux/blob/master/arch/x86/entry/syscalls/syscall_64.tbl, and scripts/syscall.tbl
_SYSCALL_NUMBERS = {
    "x86_64": {"set_mempolicy": 238, "get_mempolicy": 239, "move_pages": 279},
    "aarch64": {"set_mempolicy": 237, "get_mempolicy": 236, "move_pages": 239},
}
_MAX_NODES = 1024  # the largest MAX_NUMNODES of a kernel; get_mempolicy refuses a smaller mask
_WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)
_REASONS = {
    errno.EPERM: "a container needs CAP_SYS_NICE for it (docker run --cap-add SYS_NICE)",
    errno.ENOSYS: "this kernel was built without NUMA, or a sandbox hides it",
}


class PolicyMode(IntEnum):
    """The modes of a memory policy, by the kernel's numbers (linux/mempolicy.h)."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4
    PREFERRED_MANY = 5
    WEIGHTED_INTERLEAVE = 6


class MemoryPolicy(NamedTuple):
    """The policy of this thread, and the nodes it names."""

    mode: PolicyMode
    nodes: frozenset[int]


def set_policy(mode: PolicyMode, nodes: Collection[int]) -> None:
    """Sets the policy for pages that this thread, and threads it starts later, touch first; raises OSError."""
    _call_kernel("set_mempolicy", ctypes.c_int(mode), _build_mask(nodes), ctypes.c_ulong(_MAX_NODES + 1))


def get_policy() -> MemoryPolicy:
    """Returns the policy of this thread, perhaps inherited from numactl(8); raises OSError."""
    mode, mask = ctypes.c_int(), _build_mask(())
    size = ctypes.c_ulong(_MAX_NODES + 1)  # the kernel subtracts one
    _call_kernel("get_mempolicy", ctypes.byref(mode), mask, size, ctypes.c_void_p(0), ctypes.c_ulong(0))
    bits = (index * _WORD_BITS + bit for index, word in enumerate(mask) for bit in range(_WORD_BITS) if word >> bit & 1)
    return MemoryPolicy(PolicyMode(mode.value & 0xFF), frozenset(bits))  # the flags are in the higher bits


def get_page_nodes(addresses: Sequence[int]) -> list[int]:
    """
    Returns the node of the page at each address, or a negative errno; moves no page.

    Raises OSError.
    """
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    states = (ctypes.c_int * count)()
    null = ctypes.c_void_p(0)  # no target nodes: query only
    _call_kernel("move_pages", ctypes.c_int(0), ctypes.c_ulong(count), pages, null, states, ctypes.c_int(0))
    return list(states)


def _build_mask(nodes: Collection[int]) -> ctypes.Array[ctypes.c_ulong]:
    mask = (ctypes.c_ulong * (_MAX_NODES // _WORD_BITS))()
    for node in nodes:
        mask[node // _WORD_BITS] |= 1 << node % _WORD_BITS
    return mask


def _call_kernel(name: str, *arguments: object) -> None:
    numbers = _SYSCALL_NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, f"the number of {name}(2) on {platform.machine()} is unknown")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(numbers[name]), *arguments) != 0:
        code = ctypes.get_errno()
        hint = f": {_REASONS[code]}" if code in _REASONS else ""
        raise OSError(code, f"{name}(2) says {os.strerror(code)}{hint}")
