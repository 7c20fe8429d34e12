"""
Which processes hold an engine's memory: found by command line and listening sockets, or named in the configuration.

An engine is a tree of processes: vLLM's API server with its workers, Ollama with its runners. Of a tree only those
that hold the model count, each with its rank. Containers are seen from outside: their processes are the host's, and
their network is reached through /proc/PID/net.
"""

from __future__ import annotations

import ipaddress
import itertools
import urllib.parse
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from collectors._host.host import Host, natural
from collectors._process import command_lines as commands
from collectors._process import sockets
from collectors._process.targets import Target, compiled
from collectors._process.tree import Tree

_HOLDS = 0.25  # of the largest process of a tree: a worker without a title that holds less is none


class EngineProcess(NamedTuple):
    """One process that holds an engine's memory."""

    engine: str
    """The configured name, else `KIND:PORT` where its command line says a port, else `KIND`."""
    rank: str
    """`0`, `1`, … for tensor-parallel workers, else as the engine writes it (`PP1_TP0`); `0` where there is one."""
    kind: str
    """reference, vllm, sglang, llama.cpp, ktransformers or ollama; other for a named process of unknown kind."""
    pid: int
    started: int
    """Clock ticks from the boot to its start: with the pid, who it is. /proc/PID/stat, field 22."""
    command: str
    """What the kernel calls it, at most 15 characters: /proc/PID/comm."""


def find(host: Host, targets: Sequence[Target], *, discover: bool = True) -> list[EngineProcess]:
    """
    The processes there are now, in the order of engine and rank.

    A command or pid that is no process leaves a note; a URL does not, since it may be another host's or just down.
    With `discover` also those engines that nobody named.
    """
    tree = Tree(host)
    found: dict[str, list[EngineProcess]] = {}
    for target in targets:
        if target.name not in found:
            found[target.name] = _named(host, tree, target)
    if discover:
        taken = {one.pid for processes in found.values() for one in processes}
        tops = [top for top in tree.engines if not taken & set(tree.family(top))]
        for top in sorted(tops, key=lambda top: (tree.stats[top].started, top)):
            name = _unique(_called(tree, top), found)
            found[name] = _of_tree(host, tree, name, top)
    everyone = (one for processes in found.values() for one in processes)
    return sorted(everyone, key=lambda one: (natural(one.engine), natural(one.rank)))


def _named(host: Host, tree: Tree, target: Target) -> list[EngineProcess]:
    if target.pid is not None:
        if target.pid in tree.words:
            return [_process(tree, target.name, commands.rank(tree.words[target.pid]) or "0", target.pid)]
        host.note(f"process {target.pid}", "there is none, or it has ended, or it is a thread of the kernel")
        return []
    if target.command is not None:
        top = _by_command(tree, target.command)
        if top is None:
            host.note(f"command {target.command!r}", "no process has such a command line")
    else:
        top = None if target.url is None else _by_url(host, tree, target.url)
    return [] if top is None else _of_tree(host, tree, target.name, top)


def _by_command(tree: Tree, pattern: str) -> int | None:
    """The first that was started of those that match."""
    wanted = compiled(pattern)
    found = (pid for pid, words in tree.words.items() if wanted.search(" ".join(words)))
    return min(found, key=lambda pid: (tree.stats[pid].started, pid), default=None)


def _by_url(host: Host, tree: Tree, url: str) -> int | None:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None  # asking it for its metrics says what is wrong with it
    where = parts.hostname or ""
    if not _is_loopback(where):
        return _only(top for top in _on_port(host, tree, port) if where in sockets.addresses(host, top))
    ours = sockets.namespace(host, 1)
    here = [top for top in _on_port(host, tree, port) if sockets.namespace(host, top) in (None, ours)]
    return here[0] if here else _in_container(host, tree, port)


def _in_container(host: Host, tree: Tree, port: int) -> int | None:
    """The engine behind a port that a container runtime passes on; by its address where several have its port."""
    proxies = filter(None, map(commands.proxied, tree.words.values()))
    address, inside = next(((address, inside) for outside, address, inside in proxies if outside == port), ("", port))
    found = _on_port(host, tree, inside)
    return found[0] if len(found) == 1 else _only(top for top in found if address in sockets.addresses(host, top))


def _on_port(host: Host, tree: Tree, port: int) -> list[int]:
    return [top for top in tree.engines if port in _ports(host, tree, top)]


def _ports(host: Host, tree: Tree, top: int) -> set[int]:
    """Where an engine listens; where its sockets cannot be seen, where its command line says so or its kind does."""
    seen = sockets.ports(host, tree.family(top))
    said = commands.port(tree.words[top]) or commands.default_port(tree.kind(top))
    return seen or ({said} if said else set())


def _only(found: Iterable[int]) -> int | None:
    several = list(found)
    return several[0] if len(several) == 1 else None


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_loopback or address.is_unspecified


def _called(tree: Tree, top: int) -> str:
    port = commands.port(tree.words[top])
    return f"{tree.kind(top)}:{port}" if port else tree.kind(top)


def _unique(name: str, taken: Container[str]) -> str:
    names = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _of_tree(host: Host, tree: Tree, name: str, top: int) -> list[EngineProcess]:
    ranks: dict[str, int] = {}
    for rank, pid in _holders(host, tree, top):
        ranks[_unique(rank, ranks)] = pid
    return [_process(tree, name, rank, pid, tree.kind(top)) for rank, pid in ranks.items()]


def _process(tree: Tree, engine: str, rank: str, pid: int, kind: str = "") -> EngineProcess:
    found = tree.stats[pid]
    return EngineProcess(engine, rank, kind or tree.kind(pid), pid, found.started, found.command)


def _holders(host: Host, tree: Tree, top: int) -> list[tuple[str, int]]:
    """(rank, pid) of the processes of an engine that hold its model."""
    family = tree.family(top)
    if tree.astray(tree.kind(top)):
        return host.note(f"process {top}", "which processes are its workers cannot be told") or []
    for title in (commands.rank, commands.rank_of_core):
        titled = [(rank, pid) for pid in family if (rank := title(tree.words[pid])) is not None]
        if titled:
            return titled
    if tree.kind(top) == "ollama":
        family = [pid for pid in family if commands.is_runner(tree.words[pid])]
    elif len(family) > 1:
        family = _largest(host, tree, family)
    return [(str(number), pid) for number, pid in enumerate(family)]


def _largest(host: Host, tree: Tree, family: Sequence[int]) -> list[int]:
    """Those that are not much smaller than the largest; none, with a note, where a size is not known."""
    sizes = {pid: tree.resident(pid) for pid in family}
    if None in sizes.values():
        return host.note(f"process {family[0]}", "which of its processes hold the model cannot be told") or []
    largest = max(size or 0 for size in sizes.values())
    return [pid for pid, size in sizes.items() if (size or 0) >= _HOLDS * largest]
