"""
`--numa`: on which nodes' memory and processors the engine is to run, and making it so before NumPy is imported.

interleave: pages go round the nodes, for one engine on all processors. bind:N: memory and processors of one node only.
replicate: a process for each node, each bound to its own with weights of its own (engine/serving/workers.py).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.memory import mempolicy
from engine.memory.numa_nodes import Node, format_nodes
from engine.memory.sizing import format_mebibytes

NUMA_CHOICES = "interleave, bind:N or replicate"

_VERBS = {"interleave": "spread over", "replicate": "replicate"}


class NumaOption(NamedTuple):
    """What was asked for: `interleave`, `bind` or `replicate`; `node` is bind's."""

    mode: str
    node: int | None = None

    def __str__(self) -> str:
        return self.mode if self.node is None else f"{self.mode}:{self.node}"


def parse_option(text: str) -> NumaOption:
    """`bind:1` as a Wish; ValueError with a sentence."""
    match = re.fullmatch(r"(interleave|replicate)|bind:(\d{1,6})", text, re.ASCII)
    if match is None:
        raise ValueError(f"--numa must be {NUMA_CHOICES} with the number of a node, not {text[:40]!r}")
    return NumaOption(match[1]) if match[1] else NumaOption("bind", int(match[2]))


def select_nodes(option: NumaOption, candidates: Sequence[Node]) -> list[Node]:
    """The nodes that are meant, of those with memory and processors of ours; ValueError where there are none."""
    if not candidates:
        raise ValueError(f"--numa {option}: /sys/devices/system/node shows no node with memory and processors of ours")
    if option.node is None:
        return list(candidates)
    selected = [node for node in candidates if node.number == option.node]
    if not selected:
        alternatives = "; ".join(
            f"node {n.number} with {_format_cpus(n.cpus)} and {format_mebibytes(n.available)} available"
            for n in candidates
        )
        raise ValueError(
            f"--numa {option}: no node {option.node} has memory and processors that we may use; there is {alternatives}"
        )
    return selected


def apply_option(option: NumaOption, nodes: Sequence[Node]) -> None:
    """Binds this thread, and those it will start, to these nodes; OSError where the kernel refuses."""
    policy_mode = mempolicy.PolicyMode.BIND if option.mode == "bind" else mempolicy.PolicyMode.INTERLEAVE
    mempolicy.set_policy(policy_mode, [node.number for node in nodes])
    os.sched_setaffinity(0, _join_cpus(nodes))


def spread_blas_threads(nodes: Sequence[Node]) -> dict[int, int]:
    """
    Keeps each thread of BLAS to the processors of one node, going round; how many each node has.

    A thread that wanders takes its cache along and leaves its memory behind. The thread that asks for a product is the
    first of them: it is one of ours, not always the same, and may run on all nodes.
    """
    thread_counts = dict.fromkeys((node.number for node in nodes), 0)
    thread_counts[nodes[0].number] = 1
    for index, thread in enumerate(_list_blas_threads(), 1):
        node = nodes[index % len(nodes)]
        os.sched_setaffinity(thread, node.cpus)
        thread_counts[node.number] += 1
    return thread_counts


def count_blas_threads() -> int:
    """Threads that compute one product, with the one that asks for it."""
    return 1 + len(_list_blas_threads())


def _list_blas_threads() -> list[int]:
    """The threads that Python does not know: BLAS starts them when it is loaded."""
    python_threads = {thread.native_id for thread in threading.enumerate()}
    return sorted(tid for path in Path("/proc/self/task").iterdir() if (tid := int(path.name)) not in python_threads)


def describe_option(option: NumaOption, nodes: Sequence[Node]) -> str:
    """One sentence about what was asked, and what that comes to here."""
    if len(nodes) == 1 and option.mode != "bind":
        only_nodes = f"only {format_nodes(nodes)} has memory and processors that we may use"
        return f"--numa {option}: {only_nodes}, so there is nothing to {_VERBS[option.mode]}: all is on it"
    phrases = {"interleave": "memory in turn on", "bind": "memory and threads on", "replicate": "a worker on each of"}
    return f"--numa {option}: {phrases[option.mode]} {format_nodes(nodes)} ({_format_cpus(_join_cpus(nodes))})"


def _join_cpus(nodes: Sequence[Node]) -> frozenset[int]:
    return frozenset(cpu for node in nodes for cpu in node.cpus)


def _format_cpus(cpus: Collection[int]) -> str:
    """For people: `CPUs 0-1,4`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return f"CPU{'s' if len(cpus) > 1 else ''} " + ",".join("-".join(map(str, run)) for run in runs)
