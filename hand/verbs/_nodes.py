"""Finds a file of a NUMA node; a request names the node by its number alone."""

from __future__ import annotations

from hand.arguments import Arguments
from hand.errors import HandRefusedError
from hand.verb import VerbContext

MAX_NODES = 1024


def resolve_node_file(context: VerbContext, arguments: Arguments, name: str) -> str:
    """Returns the file's path; raises HandRefusedError when the kernel has no such node or no such file."""
    number = arguments.take_integer("node", 0, MAX_NODES - 1)
    folder = f"sys/devices/system/node/node{number}"
    if not context.files.exists(folder):
        raise HandRefusedError(f"there is no node {number} on this host")
    if not context.files.exists(f"{folder}/{name}"):
        raise HandRefusedError(f"the kernel has no {folder}/{name}")
    return f"{folder}/{name}"
