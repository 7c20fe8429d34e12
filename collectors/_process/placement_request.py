"""
What was asked of an engine's placement: by options, environment, numactl above it, or the cpuset that it lives in.

Reads /proc/PID/{cmdline,environ,status} and the command lines above it. Of the environment the names in a list are
looked at and nothing else: the rest is passwords. A policy that numactl(8) has set and that left no words behind shows
in numa_maps only, which is not for collectors (`steadytok placement --exact`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from collectors._host.cpulist import parse_cpulist, written
from collectors._host.host import Host
from collectors._host.nodes import FOLDER, listed
from collectors._host.sample import Reading, gauge
from collectors._process import placement_options as words_of
from collectors._process import private_files
from collectors._process.engine_processes import EngineProcess
from collectors._process.placement_options import VARIABLES, Asked, Machine
from collectors._process.stat import stat, status

_ABOVE = 8  # generations: a worker, its engine, a server, a shell or two
_LONGEST = 100  # characters of a list in a label

INFO = gauge(
    "steadytok_process_asked_info",
    "What asked for a placement, with which policy, and the nodes and CPUs where it named any; always 1.",
)
NODE = gauge("steadytok_process_asked_node", "A node that was asked for, by what asked and the policy; always 1.")
METRICS = (INFO, NODE)


def readings(
    host: Host, one: EngineProcess, cpus_of: Mapping[str, frozenset[int]], who: dict[str, str]
) -> Iterator[Reading]:
    """Everything that was asked of a process; nothing where nothing was."""
    for wish in asked(host, one, cpus_of):
        said = {"source": wish.source, "policy": wish.policy}
        yield INFO.sample(1, **who, **said, nodes=_label(wish.nodes), cpus=_label(wish.cpus))
        for node in sorted(wish.nodes):
            yield NODE.sample(1, **who, **said, node=str(node))


def asked(host: Host, one: EngineProcess, cpus_of: Mapping[str, frozenset[int]]) -> list[Asked]:
    """What was asked of a process, each source once: what stands nearest to the process counts."""
    machine = {int(node): cpus for node, cpus in cpus_of.items()}
    found: dict[tuple[str, str], Asked] = {}
    for wish in _wishes(host, one, machine):
        found.setdefault((wish.source, wish.policy if wish.source == "numactl" else ""), wish)
    return list(found.values())


def _wishes(host: Host, one: EngineProcess, machine: Machine) -> Iterator[Asked]:
    yield from words_of.by_variables(_variables(host, one.pid), one.kind, one.rank, machine)
    pid = one.pid
    for _ in range(_ABOVE):
        words = _command(host, pid)
        yield from words_of.by_options(words, one.rank, machine)
        yield from words_of.by_wrapper(words, machine)
        found = stat(host, pid)
        if found is None or found.parent <= 1:
            break
        pid = found.parent
    yield from _cpuset(host, one.pid)


def _command(host: Host, pid: int) -> list[str]:
    text = host.read(f"proc/{pid}/cmdline", optional=True) or ""
    return text.rstrip("\0").split("\0")


def _variables(host: Host, pid: int) -> dict[str, str]:
    if (seen := private_files.told(host, pid)) is not None:
        return {name: value for name, value in seen.variables.items() if name in VARIABLES}
    text = host.read(f"proc/{pid}/environ", optional=True) or ""
    pairs = (entry.partition("=") for entry in text.split("\0"))
    return {name: value for name, _, value in pairs if name in VARIABLES}


def _cpuset(host: Host, pid: int) -> Iterator[Asked]:
    """A cpuset is a wish where it leaves out a node that has memory. https://man7.org/linux/man-pages/man7/cpuset.7.html"""
    told = status(host, pid)
    allowed = None if told is None else parse_cpulist(told.nodes)
    there = listed(host, f"{FOLDER}/has_memory") if host.exists(f"{FOLDER}/has_memory") else None
    if allowed is not None and there is not None and there - allowed:
        yield Asked("cpuset", "bind", allowed & there)


def _label(numbers: frozenset[int]) -> str:
    """A list for a label; one that is too long is left out, since half of it would be another list."""
    text = written(numbers)
    return text if len(text) <= _LONGEST else ""
