"""Where in the machine this process runs, settled before it allocates anything, and what memory it has there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from engine.memory import numa_policy
from engine.memory.limits import read_memory_limits
from engine.memory.numa_nodes import MemoryLimit, Node, find_tightest_limit, list_nodes, pin_to_best_node
from engine.memory.numa_policy import NumaOption
from engine.memory.sizing import format_mebibytes

Log = Callable[[str], None]


class Binding(NamedTuple):
    """What was asked of NUMA, if anything, and the nodes that are left to run on; none where /sys tells nothing."""

    numa_option: NumaOption | None
    nodes: list[Node]

    @property
    def is_replicated(self) -> bool:
        """Whether there are to be several workers."""
        return self.numa_option is not None and self.numa_option.mode == "replicate" and len(self.nodes) > 1

    def read_memory_limits(self) -> list[MemoryLimit]:
        """Everything that limits its memory, smallest first."""
        bound_nodes = [node.number for node in self.nodes] if self.numa_option is not None else []
        return read_memory_limits(bound_nodes, str(self.numa_option))

    def pin_threads(self) -> dict[int, int]:
        """Keeps the threads of BLAS, which must run by now, to their nodes; how many each has."""
        if self.numa_option is not None:
            return numa_policy.spread_blas_threads(self.nodes)
        return {self.nodes[0].number: numa_policy.count_blas_threads()} if len(self.nodes) == 1 else {}


def bind_process(numa: str | None, no_pin: bool, log: Log) -> Binding:
    """
    Binds this process as it was asked to, or keeps it to one node, and says so; several workers bind themselves.

    Raises ValueError or OSError where what was asked for cannot be had: a binding that silently is none costs hours.
    """
    candidates = list_nodes(os.sched_getaffinity(0))
    if numa is None:
        return Binding(None, pin_process(candidates, no_pin, log))
    if no_pin:
        raise ValueError("--no-pin leaves the CPUs as they are, and --numa does not: give one of them")
    option = numa_policy.parse_option(numa)
    binding = Binding(option, numa_policy.select_nodes(option, candidates))
    if not binding.is_replicated:
        numa_policy.apply_option(option, binding.nodes)
    log(numa_policy.describe_option(option, binding.nodes))
    return binding


def pin_process(candidates: list[Node], no_pin: bool, log: Log) -> list[Node]:
    """The nodes that are left to run on."""
    try:
        node = None if no_pin else pin_to_best_node(candidates)
    except OSError as error:
        log(f"cannot keep to one node: {error}; going on")
        return candidates
    if node is None:
        return candidates
    log(
        f"keeping to node {node.number}, {len(node.cpus)} CPUs, which has most memory available "
        f"({format_mebibytes(node.available)}); --no-pin leaves the CPUs as they are"
    )
    return [node]


def find_node_limit(binding: Binding) -> MemoryLimit:
    """The shortest of the nodes it may run on: a canary is to leave each of them enough."""
    return find_tightest_limit(binding.nodes)
