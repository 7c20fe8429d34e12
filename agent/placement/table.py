"""Formats the placement of a process: a table like that of `numastat -p`, or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent.placement.process_placement import KINDS, ProcessPlacement, Share
from agent.text.units import format_bytes

_KIND_NAMES = {"anon": "anonymous", "file": "file", "shmem": "shared", "hugetlb": "huge pages"}
_LABEL_WIDTH, _COLUMN_WIDTH = 14, 16  # characters
_Z_SCORE = 1.96  # standard errors on either side: a 95 % interval
_POLICY_TEXTS = {
    "bind": "memory bound",
    "preferred": "memory preferred",
    "interleave": "memory interleaved",
    "replicate": "a copy of the weights",
    "shard": "weights divided",
    "distribute": "threads distributed",
    "cpus": "threads bound",
    "isolate": "one node, that of its start",
    "local": "memory where the thread runs",
    "inherit": "whatever numactl set",
    "auto": "whatever the engine chooses",
    "nobind": "no binding",
}

NodeRow = tuple[str, list[str], str]
"""A name, a cell for each node, and a cell for all nodes together."""


def format_table(process: ProcessPlacement, width: int) -> Iterator[str]:
    """Returns the lines of a process's table, in blocks of as many nodes as fit the width."""
    yield f"{format_title(process)}: {format_bytes(process.resident)} in RAM"
    yield from (
        f"  {'' if index else 'asked':{_LABEL_WIDTH}}{request}"
        for index, request in enumerate(_describe_requests(process))
    )
    columns = max(1, (width - 2 - _LABEL_WIDTH - _COLUMN_WIDTH) // _COLUMN_WIDTH)
    rows = list(_build_rows(process))
    for first in range(0, max(1, len(process.nodes)), columns):  # a kernel without NUMA has no nodes, only totals
        block = slice(first, first + columns)
        last = first + columns >= len(process.nodes)
        yield _format_line("", [f"node {node}" for node in process.nodes[block]], "all" if last else "")
        yield from (_format_line(name, cells[block], total if last else "") for name, cells, total in rows)
    yield from (f"  {name:{_LABEL_WIDTH}}{text}" for name, text in _build_notes(process))


def format_title(process: ProcessPlacement) -> str:
    """Names a process: `r1 rank 0 (PID 1211, VLLM::Worker_TP, vllm)`, or `PID 1211 (python)` for a bare PID."""
    if process.engine == f"PID {process.pid}":
        return f"{process.engine} ({process.command})"
    return f"{process.engine} rank {process.rank} (PID {process.pid}, {process.command}, {process.kind})"


def _format_line(name: str, cells: Sequence[str], total: str) -> str:
    columns = "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in cells)
    return f"  {name:{_LABEL_WIDTH}}{columns}{total:>{_COLUMN_WIDTH}}".rstrip()


def _describe_requests(process: ProcessPlacement) -> Iterator[str]:
    for request in process.requests:
        nodes_text = (
            f" on node {request.nodes}"
            if request.nodes.isdecimal()
            else f" on nodes {request.nodes}"
            if request.nodes
            else ""
        )
        cpus_text = f" (CPUs {request.cpus})" if request.cpus else ""
        yield f"{_POLICY_TEXTS.get(request.policy, request.policy)}{nodes_text}{cpus_text}, by {request.source}"
    if not process.requests:
        yield "nothing, by its options, variables and cpusets"


def _build_rows(process: ProcessPlacement) -> Iterator[NodeRow]:
    for kind in KINDS:
        if process.memory.get(kind):
            cells = [_format_or_unknown(process.size_on_node(kind, node), format_bytes) for node in process.nodes]
            yield _KIND_NAMES[kind], cells, format_bytes(process.memory[kind])
    shares = [_format_or_unknown(process.shares.get(("", node)), format_share) for node in process.nodes]
    yield "share", shares, "" if "?" in shares else "100 %"
    for name, counts in (("threads", process.threads), ("  bound here", process.bound_threads)):
        cells = [_format_or_unknown(counts.get(node), "{:.0f}".format) for node in process.nodes]
        yield name, cells, f"{sum(counts.values()):.0f}" if counts else "?"
    yield (
        "work",
        [_format_or_unknown(process.work.get(node), lambda part: f"{100 * part:.0f} %") for node in process.nodes],
        "",
    )


def _format_or_unknown(value: Any, formatter: Callable[[Any], str]) -> str:
    return "?" if value is None else formatter(value)


def format_share(share: Share) -> str:
    """Formats a share in percent with its 95 % error: `49.8 % ±1.5`."""
    error = f" ±{100 * _Z_SCORE * share.error:.1f}" if share.error else ""
    return f"{100 * share.part:.1f} %{error}"


def _build_notes(process: ProcessPlacement) -> Iterator[tuple[str, str]]:
    if process.local is not None:
        yield "local", f"{format_share(process.local)} is on the nodes where its threads run"
    if process.policies:
        yield "policies", ", ".join(f"{policy} {format_bytes(size)}" for policy, size in process.policies.items())
    if process.cgroup is not None:
        available = _format_or_unknown(process.cgroup.available, format_bytes)
        limit = f" of {format_bytes(process.cgroup.limit)}" if process.cgroup.limit else ""
        limited_by = f", set at {process.cgroup.limited_by}" if process.cgroup.limited_by else ""
        yield "cgroup", f"{available}{limit} left{limited_by}"


def to_json(process: ProcessPlacement) -> dict[str, Any]:
    """Returns the placement for programs; null is an unknown value."""
    return {
        "engine": process.engine,
        "rank": process.rank,
        "pid": process.pid,
        "kind": process.kind,
        "command": process.command,
        "memory_bytes": dict(process.memory),
        "nodes": [_node_to_json(process, node) for node in process.nodes],
        "local": None if process.local is None else process.local._asdict(),
        "asked": [request._asdict() for request in process.requests],
        "policies_bytes": dict(process.policies),
        "cgroup": None
        if process.cgroup is None
        else {
            "available_bytes": process.cgroup.available,
            "max_bytes": process.cgroup.limit,
            "limited_by": process.cgroup.limited_by,
        },
    }


def _node_to_json(process: ProcessPlacement, node: str) -> dict[str, Any]:
    share = process.shares.get(("", node))
    return {
        "node": int(node),
        "share": None if share is None else share.part,
        "share_error": None if share is None else share.error,
        "bytes": {kind: process.size_on_node(kind, node) for kind in KINDS},
        "threads": process.threads.get(node),
        "threads_bound": process.bound_threads.get(node),
        "work": process.work.get(node),
    }
