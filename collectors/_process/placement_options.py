"""
Parses requests for memory placement from an engine's options and environment, and from numactl(8).

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

Topology = Mapping[int, frozenset[int]]
"""The CPUs of each node."""

VARIABLES = (
    "VLLM_CPU_OMP_THREADS_BIND",
    "SGLANG_CPU_OMP_THREADS_BIND",
    "CPU_VISIBLE_MEMORY_NODES",
    "USE_NUMA",
    "LLAMA_ARG_NUMA",
)
"""The only environment variables that are ever read."""

_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh")
_DASH_C = re.compile(r"-[a-z]*c", re.ASCII)
_SHORT_OPTIONS = "ab:c:C:d:D:f:HhI:i:lL:m:M:N:o:p:P:sS:tTuvVw:"
_MEMORY_OPTIONS = ("interleave=", "weighted-interleave=", "preferred=", "preferred-many=", "membind=", "localalloc")
_OTHER_OPTIONS = ("cpunodebind=", "cpubind=", "physcpubind=", "all", "balancing", "huge", "strict", "touch", "verbose")
_MEMORY_POLICIES = {
    **dict.fromkeys(("-m", "--membind"), "bind"),
    **dict.fromkeys(("-i", "--interleave", "-w", "--weighted-interleave"), "interleave"),
    **dict.fromkeys(("-p", "--preferred", "-P", "--preferred-many"), "preferred"),
    **dict.fromkeys(("-l", "--localalloc"), "local"),
}
_CPU_NODE_OPTIONS = ("-N", "--cpunodebind", "-c", "--cpubind")
_CPU_OPTIONS = ("-C", "--physcpubind")


class PlacementOption(NamedTuple):
    """
    One request for placement: its source and its meaning.

    Policies for memory: bind and preferred (on these nodes), interleave, replicate and shard (over these nodes).
    Policies for threads: distribute (over all nodes), cpus (on these nodes). The others are isolate, local, inherit,
    auto and nobind. Unknown nodes or CPUs are empty.
    """

    source: str
    policy: str
    nodes: frozenset[int] = frozenset()
    cpus: frozenset[int] = frozenset()


def parse_options(words: Sequence[str], rank: str, topology: Topology) -> Iterator[PlacementOption]:
    """Yields the requests in an engine's options for the worker of this rank."""
    for text in _find_option_values(words, "--numa")[:1]:
        yield from _parse_numa("--numa", text, topology)
    for option in ("--numa-bind-nodes", "--numa-node"):  # vLLM and SGLang: one node for each GPU or rank
        nodes = _select_rank_value(_find_option_values(words, option), rank)
        if nodes:
            yield PlacementOption(option, "bind", _filter_existing(parse_cpulist(nodes), topology))
    listed = [number for text in _find_option_values(words, "--kt-numa-nodes") for number in parse_cpulist(text) or ()]
    pools = _find_option_values(words, "--kt-threadpool-count")[:1]
    if listed:
        yield PlacementOption("--kt-numa-nodes", "shard", _filter_existing(frozenset(listed), topology))
    elif pools and pools[0].isdecimal():
        yield PlacementOption("--kt-threadpool-count", "shard", frozenset(sorted(topology)[: int(pools[0][:6])]))


def parse_variables(
    variables: Mapping[str, str], kind: str, rank: str, topology: Topology
) -> Iterator[PlacementOption]:
    """Yields the requests in environment variables, of those in VARIABLES, for the worker of this rank and kind."""
    for engine, name in (("vllm", VARIABLES[0]), ("sglang", VARIABLES[1])):
        if kind == engine and (text := variables.get(name)):
            yield _parse_thread_binding(name, text, rank, topology)
    if kind == "vllm" and (text := variables.get("CPU_VISIBLE_MEMORY_NODES")):
        yield PlacementOption("CPU_VISIBLE_MEMORY_NODES", "bind", _filter_existing(parse_cpulist(text), topology))
    # Other programs read a variable of that general name too, as a build option.
    if kind == "ktransformers" and variables.get("USE_NUMA") == "1":
        yield PlacementOption("USE_NUMA", "replicate", frozenset(topology))
    if kind in ("llama.cpp", "ollama") and (text := variables.get("LLAMA_ARG_NUMA")):
        yield from _parse_numa("LLAMA_ARG_NUMA", text, topology)


def parse_numactl(words: Sequence[str], topology: Topology) -> Iterator[PlacementOption]:
    """Yields numactl's requests in the command line of a shell above the engine; numactl itself leaves no trace."""
    try:
        options, _ = getopt.getopt(
            list(_find_numactl_arguments(words)), _SHORT_OPTIONS, [*_MEMORY_OPTIONS, *_OTHER_OPTIONS]
        )
    except getopt.GetoptError:
        return  # numactl would refuse this command line
    for option, value in options:
        if option in _MEMORY_POLICIES:
            yield PlacementOption(
                "numactl", _MEMORY_POLICIES[option], frozenset() if not value else _parse_numactl_nodes(value, topology)
            )
        elif option in _CPU_NODE_OPTIONS:
            yield PlacementOption("numactl", "cpus", _parse_numactl_nodes(value, topology))
        elif option in _CPU_OPTIONS:
            cpus = parse_cpulist(value) or frozenset()
            yield PlacementOption("numactl", "cpus", _map_cpus_to_nodes(cpus, topology), cpus)


def _parse_numa(source: str, text: str, topology: Topology) -> Iterator[PlacementOption]:
    """Parses llama.cpp's distribute, isolate and numactl; the reference engine's bind:N, interleave and replicate."""
    word, _, number = text.partition(":")
    if word == "bind":
        yield PlacementOption(source, "bind", _filter_existing(parse_cpulist(number), topology))
    elif word in ("interleave", "replicate", "distribute"):
        yield PlacementOption(source, word, frozenset(topology))
    elif word in ("isolate", "numactl"):
        yield PlacementOption(source, {"isolate": "isolate", "numactl": "inherit"}[word])


def _parse_thread_binding(source: str, text: str, rank: str, topology: Topology) -> PlacementOption:
    """Parses `auto`, `nobind`, or one list of CPUs for each rank: `0-31|32-63`; memory follows the threads."""
    if text in ("auto", "nobind"):
        return PlacementOption(source, text)
    cpus = parse_cpulist(_select_rank_value(text.split("|"), rank)) or frozenset()
    return PlacementOption(source, "bind", _map_cpus_to_nodes(cpus, topology), cpus)


def _select_rank_value(values: Sequence[str], rank: str) -> str:
    """Returns the value for a rank; empty where there is none, or the rank has several numbers."""
    return values[int(rank)] if rank.isdecimal() and int(rank) < len(values) else ""


def _find_option_values(words: Sequence[str], option: str) -> list[str]:
    """Returns the values of an option: `--numa=x`, `--numa x`, `--nodes 0 1`."""
    for position, word in enumerate(words):
        if word.startswith(f"{option}="):
            return [word.partition("=")[2]]
        if word == option:
            rest = words[position + 1 :]
            end = next((index for index, following in enumerate(rest) if following.startswith("-")), len(rest))
            return list(rest[:end])
    return []


def _find_numactl_arguments(words: Sequence[str]) -> Sequence[str]:
    """Returns the words behind the only numactl in a shell's command; nothing where there are several."""
    if not words or os.path.basename(words[0]).lstrip("-") not in _SHELLS:
        return ()
    script = next((text for option, text in itertools.pairwise(words) if _DASH_C.fullmatch(option)), "")
    script_words = _split_shell(script)
    positions = [position for position, word in enumerate(script_words) if os.path.basename(word) == "numactl"]
    return script_words[positions[0] + 1 :] if len(positions) == 1 else ()


def _split_shell(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return []  # an open quote: no shell would run this


def _parse_numactl_nodes(text: str, topology: Topology) -> frozenset[int]:
    """Parses `all`, `0-1`, `!0`; nodes relative to a cpuset (+0) or a device (netdev:eth0) are unknown."""
    if text == "all":
        return frozenset(topology)
    if text.startswith("!"):
        return frozenset(topology) - (parse_cpulist(text[1:]) or frozenset(topology))
    return _filter_existing(parse_cpulist(text), topology)


def _filter_existing(nodes: frozenset[int] | None, topology: Topology) -> frozenset[int]:
    return (nodes or frozenset()) & topology.keys()


def _map_cpus_to_nodes(cpus: frozenset[int], topology: Topology) -> frozenset[int]:
    return frozenset(node for node, node_cpus in topology.items() if node_cpus & cpus)
