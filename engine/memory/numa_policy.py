"""
The option `--numa`: selects the nodes whose memory and CPUs the engine uses, and applies it before NumPy is imported.

interleave: one engine on all CPUs, its pages spread over the nodes in turn. bind:N: memory and CPUs of one node only.
replicate: one process per node, bound to that node, with its own weights (engine/serving/workers.py).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.memory import mempolicy
from engine.memory.numa_nodes import NumaNode, format_nodes
from engine.memory.sizing import format_mebibytes

NUMA_CHOICES = "interleave, bind:N or replicate"

_VERBS = {"interleave": "spread over", "replicate": "replicate"}


class NumaOption(NamedTuple):
    """A parsed --numa: `interleave`, `bind` with a node, or `replicate`."""

    mode: str
    node: int | None = None

    def __str__(self) -> str:
        return self.mode if self.node is None else f"{self.mode}:{self.node}"


def parse_option(text: str) -> NumaOption:
    """Parses `bind:1` and the like; raises ValueError with a sentence."""
    match = re.fullmatch(r"(interleave|replicate)|bind:(\d{1,6})", text, re.ASCII)
    if match is None:
        raise ValueError(f"--numa must be {NUMA_CHOICES} with the number of a node, not {text[:40]!r}")
    return NumaOption(match[1]) if match[1] else NumaOption("bind", int(match[2]))


def select_nodes(option: NumaOption, candidates: Sequence[NumaNode]) -> list[NumaNode]:
    """Returns the candidates that the option selects; raises ValueError if there are none."""
    if not candidates:
        raise ValueError(f"--numa {option}: /sys/devices/system/node lists no node with memory and usable CPUs")
    if option.node is None:
        return list(candidates)
    selected = [node for node in candidates if node.number == option.node]
    if not selected:
        alternatives = "; ".join(
            f"node {n.number} with {_format_cpus(n.cpus)} and {format_mebibytes(n.available)} available"
            for n in candidates
        )
        raise ValueError(
            f"--numa {option}: there is no node {option.node} with memory and usable CPUs; available: {alternatives}"
        )
    return selected


def apply_option(option: NumaOption, nodes: Sequence[NumaNode]) -> None:
    """Binds this thread, and threads it starts later, to these nodes; raises OSError if the kernel refuses."""
    policy_mode = mempolicy.PolicyMode.BIND if option.mode == "bind" else mempolicy.PolicyMode.INTERLEAVE
    mempolicy.set_policy(policy_mode, [node.number for node in nodes])
    os.sched_setaffinity(0, _join_cpus(nodes))


def spread_blas_threads(nodes: Sequence[NumaNode]) -> dict[int, int]:
    """
    Pins each thread of BLAS to the CPUs of one node, in turn; returns the number of threads by node.

    A thread that moves to another node leaves its memory and cache behind. The thread that calls BLAS counts as the
    first: it is a Python thread, not always the same, and stays free to run on all nodes.
    """
    thread_counts = dict.fromkeys((node.number for node in nodes), 0)
    thread_counts[nodes[0].number] = 1
    for index, thread in enumerate(_list_blas_threads(), 1):
        node = nodes[index % len(nodes)]
        os.sched_setaffinity(thread, node.cpus)
        thread_counts[node.number] += 1
    return thread_counts


def count_blas_threads() -> int:
    """Returns the number of threads that compute one product, the calling thread included."""
    return 1 + len(_list_blas_threads())


def _list_blas_threads() -> list[int]:
    """Returns the threads that Python did not start: BLAS starts them when it is loaded."""
    python_threads = {thread.native_id for thread in threading.enumerate()}
    return sorted(tid for path in Path("/proc/self/task").iterdir() if (tid := int(path.name)) not in python_threads)


def describe_option(option: NumaOption, nodes: Sequence[NumaNode]) -> str:
    """Describes in one sentence the option and its effect on this machine."""
    if len(nodes) == 1 and option.mode != "bind":
        only_nodes = f"only {format_nodes(nodes)} has memory and usable CPUs"
        return f"--numa {option}: {only_nodes}, so there is nothing to {_VERBS[option.mode]}: everything is on it"
    phrases = {"interleave": "memory in turn on", "bind": "memory and threads on", "replicate": "a worker on each of"}
    return f"--numa {option}: {phrases[option.mode]} {format_nodes(nodes)} ({_format_cpus(_join_cpus(nodes))})"


def _join_cpus(nodes: Sequence[NumaNode]) -> frozenset[int]:
    return frozenset(cpu for node in nodes for cpu in node.cpus)


def _format_cpus(cpus: Collection[int]) -> str:
    """Formats CPUs for people: `CPUs 0-1,4`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return f"CPU{'s' if len(cpus) > 1 else ''} " + ",".join("-".join(map(str, run)) for run in runs)
