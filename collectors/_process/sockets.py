"""
Finds the process that listens on a TCP port, in each network namespace; a container has its own namespace.

/proc/PID/net lists the sockets of that process's namespace, /proc/PID/fd those of the process itself.
https://docs.kernel.org/networking/proc_net_tcp.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from collectors._host.host import Host
from collectors._process import private_files

_LISTENS = re.compile(
    r"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A (?:\S+ +){3}\S+ +\d+ +(\d+) ", re.ASCII | re.MULTILINE
)
_LOCAL = re.compile(r"\|-- (\d{1,3}(?:\.\d{1,3}){3})\s+/32 host LOCAL", re.ASCII)


def read_namespace(host: Host, pid: int) -> str | None:
    """Returns a process's network namespace as in its link, net:[4026531840]; None where it is unknown."""
    return host.link(f"proc/{pid}/ns/net")


def read_listening_ports(host: Host, pid: int) -> dict[str, int]:
    """Returns the listening ports of a process's network namespace, by socket name as in /proc/PID/fd."""
    port_by_socket: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        path = f"proc/{pid}/net/{table}"
        text = host.read(path, optional=True)
        if text is None:
            continue
        if not text.startswith("sl "):
            host.note(path, f"expected a table of sockets, found {text[:40]!r}")
        port_by_socket |= {f"socket:[{inode}]": int(port, 16) for port, inode in _LISTENS.findall(text)}
    return port_by_socket


def find_ports(host: Host, pids: Iterable[int]) -> set[int]:
    """Returns the ports on which these processes, all of one network namespace, listen."""
    sockets: Mapping[str, int] | None = None
    open_ports: set[int] = set()
    for pid in pids:
        sockets = read_listening_ports(host, pid) if sockets is None else sockets
        open_ports |= {sockets[name] for name in _list_sockets(host, pid) if name in sockets}
    return open_ports


def read_addresses(host: Host, pid: int) -> set[str]:
    """Returns the IPv4 addresses of a process's network namespace."""
    return set(_LOCAL.findall(host.read(f"proc/{pid}/net/fib_trie", optional=True) or ""))


def _list_sockets(host: Host, pid: int) -> Sequence[str]:
    if (private_info := private_files.read_private_info(host, pid)) is not None:
        return private_info.sockets
    folder = f"proc/{pid}/fd"
    return [name for name in (host.link(f"{folder}/{number}") for number in host.names(folder)) if name]
