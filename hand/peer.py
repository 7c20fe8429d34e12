"""Who is at the other end of the socket: its user and its cgroup, as the kernel tells them."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

from hand.config import Config
from hand.errors import RefusedError

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid; unix(7)


class Peer(NamedTuple):
    """A caller."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """The process that connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)


def cgroup_of(pid: int) -> str:
    """
    The path of a process in the unified hierarchy; RefusedError where there is none.

    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError as error:
        raise RefusedError(f"process {pid} cannot be looked at: {error.strerror}") from error
    found = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if found is None:
        raise RefusedError(f"process {pid} is in no cgroup of the unified hierarchy")
    return found


def within(cgroup: str, of: str) -> bool:
    """Whether a cgroup is another one, or below it."""
    return cgroup == of or cgroup.startswith(of.rstrip("/") + "/")


def check(peer: Peer, config: Config) -> None:
    """RefusedError where this caller is not the one that root named, or is gone already."""
    if peer.uid not in config.uids:
        raise RefusedError(f"user {peer.uid} may not use this hand")
    if config.cgroup is None:
        return  # direct mode: it was this user who started us, and a host may have no cgroups at all
    if not within(cgroup := cgroup_of(peer.pid), config.cgroup):
        raise RefusedError(f"process {peer.pid} is in {cgroup}, and only {config.cgroup} may use this hand")
