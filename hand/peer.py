"""Identifies and checks the caller by the user and cgroup that the kernel reports for the socket."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

from hand.config import HandConfig
from hand.errors import HandRefusedError

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid; unix(7)


class Peer(NamedTuple):
    """The calling process and its user."""

    pid: int
    uid: int


def get_peer(connection: socket.socket) -> Peer:
    """Returns the process that connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)


def read_cgroup(pid: int) -> str:
    """
    Returns the cgroup of a process in the unified hierarchy; raises HandRefusedError.

    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError as error:
        raise HandRefusedError(f"the cgroup of process {pid} cannot be read: {error.strerror}") from error
    cgroup = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if cgroup is None:
        raise HandRefusedError(f"process {pid} is in no cgroup of the unified hierarchy")
    return cgroup


def is_within(cgroup: str, ancestor: str) -> bool:
    """True when `cgroup` is `ancestor` or below it."""
    return cgroup == ancestor or cgroup.startswith(ancestor.rstrip("/") + "/")


def check_peer(peer: Peer, config: HandConfig) -> None:
    """Raises HandRefusedError unless root permits this caller in hand.toml and it still runs."""
    if peer.uid not in config.uids:
        raise HandRefusedError(f"user {peer.uid} may not use this hand")
    if config.cgroup is None:
        return  # direct mode: this user started the hand, and the host may have no cgroups
    if not is_within(cgroup := read_cgroup(peer.pid), config.cgroup):
        raise HandRefusedError(f"process {peer.pid} is in {cgroup}, and only {config.cgroup} may use this hand")
