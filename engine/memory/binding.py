"""Binds this process to NUMA nodes before it allocates anything, and finds the memory limits that apply there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from engine.memory import numa_policy
from engine.memory.limits import read_memory_limits
from engine.memory.numa_nodes import MemoryLimit, NumaNode, find_tightest_limit, list_nodes, pin_to_best_node
from engine.memory.numa_policy import NumaOption
from engine.memory.sizing import format_mebibytes

Log = Callable[[str], None]


class Binding(NamedTuple):
    """The option --numa, if given, and the nodes to run on; no nodes if /sys does not list any."""

    numa_option: NumaOption | None
    nodes: list[NumaNode]

    @property
    def is_replicated(self) -> bool:
        """True if the engine runs one worker on each of several nodes."""
        return self.numa_option is not None and self.numa_option.mode == "replicate" and len(self.nodes) > 1

    def read_memory_limits(self) -> list[MemoryLimit]:
        """Returns every limit on the memory of this process, smallest first."""
        bound_nodes = [node.number for node in self.nodes] if self.numa_option is not None else []
        return read_memory_limits(bound_nodes, str(self.numa_option))

    def pin_threads(self) -> dict[int, int]:
        """Pins the running threads of BLAS to their nodes; returns the number of threads by node."""
        if self.numa_option is not None:
            return numa_policy.spread_blas_threads(self.nodes)
        return {self.nodes[0].number: numa_policy.count_blas_threads()} if len(self.nodes) == 1 else {}


def bind_process(numa: str | None, no_pin: bool, log: Log) -> Binding:
    """
    Binds this process as --numa asks, or pins it to one node, and logs it; several workers bind themselves.

    Raises ValueError or OSError if --numa cannot be applied: silently running unbound would cost the operator hours.
    """
    candidates = list_nodes(os.sched_getaffinity(0))
    if numa is None:
        return Binding(None, pin_process(candidates, no_pin, log))
    if no_pin:
        raise ValueError("--no-pin and --numa exclude each other: give one of them")
    option = numa_policy.parse_option(numa)
    binding = Binding(option, numa_policy.select_nodes(option, candidates))
    if not binding.is_replicated:
        numa_policy.apply_option(option, binding.nodes)
    log(numa_policy.describe_option(option, binding.nodes))
    return binding


def pin_process(candidates: list[NumaNode], no_pin: bool, log: Log) -> list[NumaNode]:
    """Pins the process to the best candidate unless `no_pin`; returns the nodes that it may run on."""
    try:
        node = None if no_pin else pin_to_best_node(candidates)
    except OSError as error:
        log(f"cannot pin to one node: {error}; continuing")
        return candidates
    if node is None:
        return candidates
    log(
        f"pinned to node {node.number}, {len(node.cpus)} CPUs, the node with most memory available "
        f"({format_mebibytes(node.available)}); --no-pin disables this"
    )
    return [node]


def find_node_limit(binding: Binding) -> MemoryLimit:
    """Returns the limit of the node with least memory available: a canary must leave enough on every node."""
    return find_tightest_limit(binding.nodes)
