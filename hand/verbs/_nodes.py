"""A file of a NUMA node, named by number alone."""

from __future__ import annotations

from hand.arguments import Arguments
from hand.errors import RefusedError
from hand.verb import Bench

MOST_NODES = 1024


def node_file(bench: Bench, arguments: Arguments, name: str) -> str:
    """The path; RefusedError where the kernel has no such node, or no such file for it."""
    number = arguments.whole("node", 0, MOST_NODES - 1)
    folder = f"sys/devices/system/node/node{number}"
    if not bench.files.exists(folder):
        raise RefusedError(f"there is no node {number} on this host")
    if not bench.files.exists(f"{folder}/{name}"):
        raise RefusedError(f"the kernel has no {folder}/{name}")
    return f"{folder}/{name}"
