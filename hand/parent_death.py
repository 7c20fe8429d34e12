"""
Ties a program's life to that of the hand. The kernel sends SIGTERM when the hand ends, however it ends: prctl(2),
PR_SET_PDEATHSIG. https://man7.org/linux/man-pages/man2/pr_set_pdeathsig.2const.html
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(parent: int) -> None:
    """Has the kernel send SIGTERM when the parent ends; exits at once when it has ended already."""
    call_prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends, a new session or not."""
    call_prctl(_PR_SET_CHILD_SUBREAPER, 1)


def call_prctl(option: int, value: int) -> None:
    """Calls prctl(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(option), *[ctypes.c_ulong(number) for number in (value, 0, 0, 0)]):
        raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")
