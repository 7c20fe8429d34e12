"""
Finds the processes that hold an engine's memory, by command line, listening sockets or the configuration.

An engine is a tree of processes: vLLM's API server with its workers, Ollama with its runners. Only the processes that
hold the model count, each with its rank. Containers are seen from outside: their processes are the host's, and their
network is read from /proc/PID/net.
"""

from __future__ import annotations

import ipaddress
import itertools
import urllib.parse
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from collectors._host.host import Host
from collectors._host.names import natural
from collectors._process import command_lines as commands
from collectors._process import sockets
from collectors._process.targets import ProcessTarget, compile_pattern
from collectors._process.tree import ProcessTree

_MIN_HOLDER_SHARE = 0.25  # of the largest process of a tree: an untitled process that holds less is no worker


class EngineProcess(NamedTuple):
    """One process that holds an engine's memory."""

    engine: str
    """The configured name, else `KIND:PORT` where its command line has a port, else `KIND`."""
    rank: str
    """`0`, `1`, … for tensor-parallel workers, else the engine's spelling (`PP1_TP0`); `0` for a single worker."""
    kind: str
    """reference, vllm, sglang, llama.cpp, ktransformers or ollama; other for a named process of unknown kind."""
    pid: int
    start_time: int
    """Clock ticks from boot to its start, which identify it together with the pid. /proc/PID/stat, field 22."""
    command: str
    """The kernel's name for it, at most 15 characters: /proc/PID/comm."""


def find_processes(host: Host, targets: Sequence[ProcessTarget], *, discover: bool = True) -> list[EngineProcess]:
    """
    Returns the engine processes that run now, ordered by engine and rank.

    A configured command or pid without a process leaves a note. A URL does not: it may be another host's, or just down.
    `discover` adds the engines that are not in the configuration.
    """
    tree = ProcessTree(host)
    by_engine: dict[str, list[EngineProcess]] = {}
    for target in targets:
        if target.name not in by_engine:
            by_engine[target.name] = _find_target(host, tree, target)
    if discover:
        claimed = {process.pid for processes in by_engine.values() for process in processes}
        tops = [top for top in tree.engines if not claimed & set(tree.list_family(top))]
        for top in sorted(tops, key=lambda top: (tree.stats[top].start_time, top)):
            name = _make_unique(_name_engine(tree, top), by_engine)
            by_engine[name] = _list_processes(host, tree, name, top)
    all_processes = (process for processes in by_engine.values() for process in processes)
    return sorted(all_processes, key=lambda process: (natural(process.engine), natural(process.rank)))


def _find_target(host: Host, tree: ProcessTree, target: ProcessTarget) -> list[EngineProcess]:
    if target.pid is not None:
        if target.pid in tree.command_lines:
            return [
                _make_process(tree, target.name, commands.parse_rank(tree.command_lines[target.pid]) or "0", target.pid)
            ]
        host.note(f"process {target.pid}", "does not exist, has ended, or is a kernel thread")
        return []
    if target.command is not None:
        top = _find_by_command(tree, target.command)
        if top is None:
            host.note(f"command {target.command!r}", "no process has such a command line")
    else:
        top = None if target.url is None else _find_by_url(host, tree, target.url)
    return [] if top is None else _list_processes(host, tree, target.name, top)


def _find_by_command(tree: ProcessTree, pattern: str) -> int | None:
    """Returns the first process, by start time, that matches the pattern."""
    expression = compile_pattern(pattern)
    matching = (pid for pid, words in tree.command_lines.items() if expression.search(" ".join(words)))
    return min(matching, key=lambda pid: (tree.stats[pid].start_time, pid), default=None)


def _find_by_url(host: Host, tree: ProcessTree, url: str) -> int | None:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None  # the collector `engine` reports the bad URL
    hostname = parts.hostname or ""
    if not _is_loopback(hostname):
        return _get_only(
            top for top in _find_on_port(host, tree, port) if hostname in sockets.read_addresses(host, top)
        )
    host_namespace = sockets.read_namespace(host, 1)
    local_tops = [
        top for top in _find_on_port(host, tree, port) if sockets.read_namespace(host, top) in (None, host_namespace)
    ]
    return local_tops[0] if local_tops else _find_in_container(host, tree, port)


def _find_in_container(host: Host, tree: ProcessTree, port: int) -> int | None:
    """Returns the engine behind a port that a container runtime forwards; its address decides between equal ports."""
    proxies = filter(None, map(commands.parse_proxy, tree.command_lines.values()))
    address, container_port = next(
        ((address, container_port) for host_port, address, container_port in proxies if host_port == port), ("", port)
    )
    candidates = _find_on_port(host, tree, container_port)
    return (
        candidates[0]
        if len(candidates) == 1
        else _get_only(top for top in candidates if address in sockets.read_addresses(host, top))
    )


def _find_on_port(host: Host, tree: ProcessTree, port: int) -> list[int]:
    return [top for top in tree.engines if port in _find_ports(host, tree, top)]


def _find_ports(host: Host, tree: ProcessTree, top: int) -> set[int]:
    """Returns the ports on which an engine listens; where its sockets are hidden, its command line's or kind's port."""
    open_ports = sockets.find_ports(host, tree.list_family(top))
    default_port = commands.parse_port(tree.command_lines[top]) or commands.get_default_port(tree.get_kind(top))
    return open_ports or ({default_port} if default_port else set())


def _get_only(candidates: Iterable[int]) -> int | None:
    tops = list(candidates)
    return tops[0] if len(tops) == 1 else None


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_loopback or address.is_unspecified


def _name_engine(tree: ProcessTree, top: int) -> str:
    port = commands.parse_port(tree.command_lines[top])
    return f"{tree.get_kind(top)}:{port}" if port else tree.get_kind(top)


def _make_unique(name: str, used_names: Container[str]) -> str:
    names = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in used_names)


def _list_processes(host: Host, tree: ProcessTree, name: str, top: int) -> list[EngineProcess]:
    ranks: dict[str, int] = {}
    for rank, pid in _find_model_holders(host, tree, top):
        ranks[_make_unique(rank, ranks)] = pid
    return [_make_process(tree, name, rank, pid, tree.get_kind(top)) for rank, pid in ranks.items()]


def _make_process(tree: ProcessTree, engine: str, rank: str, pid: int, kind: str = "") -> EngineProcess:
    process_stat = tree.stats[pid]
    return EngineProcess(engine, rank, kind or tree.get_kind(pid), pid, process_stat.start_time, process_stat.command)


def _find_model_holders(host: Host, tree: ProcessTree, top: int) -> list[tuple[str, int]]:
    """Returns (rank, pid) of the processes of an engine that hold its model."""
    family = tree.list_family(top)
    if tree.has_orphans(tree.get_kind(top)):
        return host.note(f"process {top}", "its workers cannot be identified") or []
    for title in (commands.parse_rank, commands.parse_core_rank):
        titled = [(rank, pid) for pid in family if (rank := title(tree.command_lines[pid])) is not None]
        if titled:
            return titled
    if tree.get_kind(top) == "ollama":
        family = [pid for pid in family if commands.is_runner(tree.command_lines[pid])]
    elif len(family) > 1:
        family = _select_largest(host, tree, family)
    return [(str(number), pid) for number, pid in enumerate(family)]


def _select_largest(host: Host, tree: ProcessTree, family: Sequence[int]) -> list[int]:
    """Returns the processes not much smaller than the largest; none, with a note, where a size is unknown."""
    sizes = {pid: tree.read_resident(pid) for pid in family}
    if None in sizes.values():
        return host.note(f"process {family[0]}", "the processes that hold its model cannot be identified") or []
    largest = max(size or 0 for size in sizes.values())
    return [pid for pid, size in sizes.items() if (size or 0) >= _MIN_HOLDER_SHARE * largest]
