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
from engine.memory.numa_nodes import Node, these
from engine.memory.sizing import mebibytes

WORDS = "interleave, bind:N or replicate"

_NOTHING = {"interleave": "spread over", "replicate": "replicate"}


class Wish(NamedTuple):
    """What was asked for: `interleave`, `bind` or `replicate`; `node` is bind's."""

    word: str
    node: int | None = None

    def __str__(self) -> str:
        return self.word if self.node is None else f"{self.word}:{self.node}"


def parse(text: str) -> Wish:
    """`bind:1` as a Wish; ValueError with a sentence."""
    match = re.fullmatch(r"(interleave|replicate)|bind:(\d{1,6})", text, re.ASCII)
    if match is None:
        raise ValueError(f"--numa must be {WORDS} with the number of a node, not {text[:40]!r}")
    return Wish(match[1]) if match[1] else Wish("bind", int(match[2]))


def chosen(wish: Wish, found: Sequence[Node]) -> list[Node]:
    """The nodes that are meant, of those with memory and processors of ours; ValueError where there are none."""
    if not found:
        raise ValueError(f"--numa {wish}: /sys/devices/system/node shows no node with memory and processors of ours")
    if wish.node is None:
        return list(found)
    mine = [node for node in found if node.number == wish.node]
    if not mine:
        there = "; ".join(f"node {n.number} with {_cpus(n.cpus)} and {mebibytes(n.available)} available" for n in found)
        raise ValueError(
            f"--numa {wish}: no node {wish.node} has memory and processors that we may use; there is {there}"
        )
    return mine


def apply(wish: Wish, mine: Sequence[Node]) -> None:
    """Binds this thread, and those it will start, to these nodes; OSError where the kernel refuses."""
    mode = mempolicy.Policy.BIND if wish.word == "bind" else mempolicy.Policy.INTERLEAVE
    mempolicy.set_policy(mode, [node.number for node in mine])
    os.sched_setaffinity(0, _all_cpus(mine))


def spread(nodes: Sequence[Node]) -> dict[int, int]:
    """
    Keeps each thread of BLAS to the processors of one node, going round; how many each node has.

    A thread that wanders takes its cache along and leaves its memory behind. The thread that asks for a product is the
    first of them: it is one of ours, not always the same, and may run on all nodes.
    """
    count = dict.fromkeys((node.number for node in nodes), 0)
    count[nodes[0].number] = 1
    for index, thread in enumerate(_threads_of_blas(), 1):
        node = nodes[index % len(nodes)]
        os.sched_setaffinity(thread, node.cpus)
        count[node.number] += 1
    return count


def blas_threads() -> int:
    """Threads that compute one product, with the one that asks for it."""
    return 1 + len(_threads_of_blas())


def _threads_of_blas() -> list[int]:
    """The threads that Python does not know: BLAS starts them when it is loaded."""
    ours = {thread.native_id for thread in threading.enumerate()}
    return sorted(tid for path in Path("/proc/self/task").iterdir() if (tid := int(path.name)) not in ours)


def told(wish: Wish, nodes: Sequence[Node]) -> str:
    """One sentence about what was asked, and what that comes to here."""
    if len(nodes) == 1 and wish.word != "bind":
        only = f"only {these(nodes)} has memory and processors that we may use"
        return f"--numa {wish}: {only}, so there is nothing to {_NOTHING[wish.word]}: all is on it"
    how = {"interleave": "memory in turn on", "bind": "memory and threads on", "replicate": "a worker on each of"}
    return f"--numa {wish}: {how[wish.word]} {these(nodes)} ({_cpus(_all_cpus(nodes))})"


def _all_cpus(nodes: Sequence[Node]) -> frozenset[int]:
    return frozenset(cpu for node in nodes for cpu in node.cpus)


def _cpus(cpus: Collection[int]) -> str:
    """For people: `CPUs 0-1,4`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return f"CPU{'s' if len(cpus) > 1 else ''} " + ",".join("-".join(map(str, run)) for run in runs)
