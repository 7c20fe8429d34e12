"""Where in the machine this process runs, settled before it allocates anything, and what memory it has there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from engine.memory import numa_policy
from engine.memory.limits import limits
from engine.memory.numa_nodes import Node, Place, nodes, pin, place
from engine.memory.numa_policy import Wish
from engine.memory.sizing import mebibytes

Say = Callable[[str], None]


class Site(NamedTuple):
    """What was asked of NUMA, if anything, and the nodes that are left to run on; none where /sys tells nothing."""

    wish: Wish | None
    nodes: list[Node]

    @property
    def replicates(self) -> bool:
        """Whether there are to be several workers."""
        return self.wish is not None and self.wish.word == "replicate" and len(self.nodes) > 1

    def places(self) -> list[Place]:
        """Everything that limits its memory, smallest first."""
        bound = [node.number for node in self.nodes] if self.wish is not None else []
        return limits(bound, str(self.wish))

    def threads(self) -> dict[int, int]:
        """Keeps the threads of BLAS, which must run by now, to their nodes; how many each has."""
        if self.wish is not None:
            return numa_policy.spread(self.nodes)
        return {self.nodes[0].number: numa_policy.blas_threads()} if len(self.nodes) == 1 else {}


def settle(numa: str | None, no_pin: bool, say: Say) -> Site:
    """
    Binds this process as it was asked to, or keeps it to one node, and says so; several workers bind themselves.

    Raises ValueError or OSError where what was asked for cannot be had: a binding that silently is none costs hours.
    """
    found = nodes(os.sched_getaffinity(0))
    if numa is None:
        return Site(None, pinned(found, no_pin, say))
    if no_pin:
        raise ValueError("--no-pin leaves the CPUs as they are, and --numa does not: give one of them")
    wish = numa_policy.parse(numa)
    site = Site(wish, numa_policy.chosen(wish, found))
    if not site.replicates:
        numa_policy.apply(wish, site.nodes)
    say(numa_policy.told(wish, site.nodes))
    return site


def pinned(found: list[Node], leave: bool, say: Say) -> list[Node]:
    """The nodes that are left to run on."""
    try:
        node = None if leave else pin(found)
    except OSError as error:
        say(f"cannot keep to one node: {error}; going on")
        return found
    if node is None:
        return found
    say(
        f"keeping to node {node.number}, {len(node.cpus)} CPUs, which has most memory available "
        f"({mebibytes(node.available)}); --no-pin leaves the CPUs as they are"
    )
    return [node]


def nearest(site: Site) -> Place:
    """The shortest of the nodes it may run on: a canary is to leave each of them enough."""
    return place(site.nodes)
