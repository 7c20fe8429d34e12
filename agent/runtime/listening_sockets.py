"""Finds out which users listen at an address of this host, so that a credential goes to nobody else."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN in the kernel's net/tcp_states.h


def find_listener_users(host: str, port: int, proc: Path = Path("/proc")) -> set[int]:
    """
    Returns the user ids of the sockets that listen at HOST:PORT; empty where the kernel lists none.

    Everybody may read them: https://docs.kernel.org/networking/proc_net_tcp.html
    """
    try:
        found_addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()  # the request to such a name fails, with its reason
    addresses = {ip_address(str(entry[4][0]).partition("%")[0]) for entry in found_addresses}
    return {
        user
        for address, listening_port, user in _iter_listeners(proc)
        if listening_port == port and (address in addresses or address.is_unspecified)
    }


def _iter_listeners(proc: Path) -> Iterator[tuple[IPv4Address | IPv6Address, int, int]]:
    for name in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / name).read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6, or a container that hides the file
        for fields in map(str.split, lines):
            if len(fields) > 7 and fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                yield _parse_address(address), int(port, 16), int(fields[7])


def _parse_address(text: str) -> IPv4Address | IPv6Address:
    """Parses hexadecimal words of 32 bits, each in the byte order of the processor."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    packed = b"".join(words)
    return IPv4Address(packed) if len(packed) == 4 else _unmap(IPv6Address(packed))


def _unmap(address: IPv6Address) -> IPv4Address | IPv6Address:
    return address.ipv4_mapped or address
