"""
What people ask of memory placement: the words of engines' options and environment variables, and of numactl(8).

llama.cpp: --numa, LLAMA_ARG_NUMA; vLLM: https://docs.vllm.ai/en/latest/getting_started/installation/cpu/ ; SGLang:
https://docs.sglang.ai/platforms/cpu_server.html ; ktransformers: USE_NUMA, --kt-numa-nodes, --kt-threadpool-count.
"""

from __future__ import annotations

import getopt
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from collectors._host.cpulist import parse_cpulist

Machine = Mapping[int, frozenset[int]]
"""The CPUs of each node."""

VARIABLES = (
    "VLLM_CPU_OMP_THREADS_BIND",
    "SGLANG_CPU_OMP_THREADS_BIND",
    "CPU_VISIBLE_MEMORY_NODES",
    "USE_NUMA",
    "LLAMA_ARG_NUMA",
)
"""The only environment variables that are ever looked at."""

_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh")
_DASH_C = re.compile(r"-[a-z]*c", re.ASCII)
_SHORT = "ab:c:C:d:D:f:HhI:i:lL:m:M:N:o:p:P:sS:tTuvVw:"
_LONG = ("interleave=", "weighted-interleave=", "preferred=", "preferred-many=", "membind=", "localalloc")
_LONG_OF_CPUS = ("cpunodebind=", "cpubind=", "physcpubind=", "all", "balancing", "huge", "strict", "touch", "verbose")
_MEMORY = {
    **dict.fromkeys(("-m", "--membind"), "bind"),
    **dict.fromkeys(("-i", "--interleave", "-w", "--weighted-interleave"), "interleave"),
    **dict.fromkeys(("-p", "--preferred", "-P", "--preferred-many"), "preferred"),
    **dict.fromkeys(("-l", "--localalloc"), "local"),
}
_NODES_OF_CPUS = ("-N", "--cpunodebind", "-c", "--cpubind")
_CPUS = ("-C", "--physcpubind")


class Asked(NamedTuple):
    """
    One wish: by what it was said, and what it means.

    policy: bind and preferred (memory on these nodes), interleave, replicate and shard (over these nodes), distribute
    (threads over all nodes), cpus (threads on these nodes), isolate, local, inherit, auto, nobind. What is not known of
    nodes or cpus is empty.
    """

    source: str
    policy: str
    nodes: frozenset[int] = frozenset()
    cpus: frozenset[int] = frozenset()


def by_options(words: Sequence[str], rank: str, machine: Machine) -> Iterator[Asked]:
    """What the options of an engine ask for the worker of this rank."""
    for text in _values(words, "--numa")[:1]:
        yield from _numa("--numa", text, machine)
    for option in ("--numa-bind-nodes", "--numa-node"):  # vLLM and SGLang: one node for each GPU or rank
        nodes = _of_rank(_values(words, option), rank)
        if nodes:
            yield Asked(option, "bind", _known(parse_cpulist(nodes), machine))
    listed = [number for text in _values(words, "--kt-numa-nodes") for number in parse_cpulist(text) or ()]
    pools = _values(words, "--kt-threadpool-count")[:1]
    if listed:
        yield Asked("--kt-numa-nodes", "shard", _known(frozenset(listed), machine))
    elif pools and pools[0].isdecimal():
        yield Asked("--kt-threadpool-count", "shard", frozenset(sorted(machine)[: int(pools[0][:6])]))


def by_variables(variables: Mapping[str, str], kind: str, rank: str, machine: Machine) -> Iterator[Asked]:
    """What environment variables, of those in VARIABLES, ask for the worker of this rank of a kind of engine."""
    for engine, name in (("vllm", VARIABLES[0]), ("sglang", VARIABLES[1])):
        if kind == engine and (text := variables.get(name)):
            yield _threads(name, text, rank, machine)
    if kind == "vllm" and (text := variables.get("CPU_VISIBLE_MEMORY_NODES")):
        yield Asked("CPU_VISIBLE_MEMORY_NODES", "bind", _known(parse_cpulist(text), machine))
    # Others read a variable of that general name too, to decide what they are built with.
    if kind == "ktransformers" and variables.get("USE_NUMA") == "1":
        yield Asked("USE_NUMA", "replicate", frozenset(machine))
    if kind in ("llama.cpp", "ollama") and (text := variables.get("LLAMA_ARG_NUMA")):
        yield from _numa("LLAMA_ARG_NUMA", text, machine)


def by_wrapper(words: Sequence[str], machine: Machine) -> Iterator[Asked]:
    """What numactl asks in the command line of a shell that stayed above the engine; numactl itself leaves no trace."""
    try:
        options, _ = getopt.getopt(list(_numactl(words)), _SHORT, [*_LONG, *_LONG_OF_CPUS])
    except getopt.GetoptError:
        return  # no command line that numactl would take
    for option, value in options:
        if option in _MEMORY:
            yield Asked("numactl", _MEMORY[option], frozenset() if not value else _numactl_nodes(value, machine))
        elif option in _NODES_OF_CPUS:
            yield Asked("numactl", "cpus", _numactl_nodes(value, machine))
        elif option in _CPUS:
            cpus = parse_cpulist(value) or frozenset()
            yield Asked("numactl", "cpus", _nodes_of(cpus, machine), cpus)


def _numa(source: str, text: str, machine: Machine) -> Iterator[Asked]:
    """llama.cpp's distribute, isolate and numactl; our own engine's bind:N, interleave and replicate."""
    word, _, number = text.partition(":")
    if word == "bind":
        yield Asked(source, "bind", _known(parse_cpulist(number), machine))
    elif word in ("interleave", "replicate", "distribute"):
        yield Asked(source, word, frozenset(machine))
    elif word in ("isolate", "numactl"):
        yield Asked(source, {"isolate": "isolate", "numactl": "inherit"}[word])


def _threads(source: str, text: str, rank: str, machine: Machine) -> Asked:
    """`auto`, `nobind`, or one list of CPUs for each rank: `0-31|32-63`; memory follows the threads."""
    if text in ("auto", "nobind"):
        return Asked(source, text)
    cpus = parse_cpulist(_of_rank(text.split("|"), rank)) or frozenset()
    return Asked(source, "bind", _nodes_of(cpus, machine), cpus)


def _of_rank(values: Sequence[str], rank: str) -> str:
    """The value for a rank; empty where there is none, or the rank has several numbers."""
    return values[int(rank)] if rank.isdecimal() and int(rank) < len(values) else ""


def _values(words: Sequence[str], option: str) -> list[str]:
    """What stands behind an option: `--numa=x`, `--numa x`, `--nodes 0 1`."""
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            return [word.partition("=")[2]]
        if word == option:
            rest = words[place + 1 :]
            end = next((index for index, following in enumerate(rest) if following.startswith("-")), len(rest))
            return list(rest[:end])
    return []


def _numactl(words: Sequence[str]) -> Sequence[str]:
    """The words behind the only numactl that a shell was told to run; of several nobody knows which is meant."""
    if not words or os.path.basename(words[0]).lstrip("-") not in _SHELLS:
        return ()
    script = next((text for option, text in itertools.pairwise(words) if _DASH_C.fullmatch(option)), "")
    said = _split(script)
    places = [place for place, word in enumerate(said) if os.path.basename(word) == "numactl"]
    return said[places[0] + 1 :] if len(places) == 1 else ()


def _split(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return []  # an open quote: no shell would have run it


def _numactl_nodes(text: str, machine: Machine) -> frozenset[int]:
    """`all`, `0-1`, `!0`; what is relative to a cpuset (+0) or to a device (netdev:eth0) is not known."""
    if text == "all":
        return frozenset(machine)
    if text.startswith("!"):
        return frozenset(machine) - (parse_cpulist(text[1:]) or frozenset(machine))
    return _known(parse_cpulist(text), machine)


def _known(nodes: frozenset[int] | None, machine: Machine) -> frozenset[int]:
    return (nodes or frozenset()) & machine.keys()


def _nodes_of(cpus: frozenset[int], machine: Machine) -> frozenset[int]:
    return frozenset(node for node, own in machine.items() if own & cpus)
