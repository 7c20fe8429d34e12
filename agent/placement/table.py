"""Draws where a process's memory is: a table as numastat -p has it, for people, and the same as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent.placement.process_placement import KINDS, Placed, Share
from agent.text.units import bytes_written

_NAMES = {"anon": "anonymous", "file": "file", "shmem": "shared", "hugetlb": "huge pages"}
_LABEL, _COLUMN = 14, 16  # characters
_Z = 1.96  # standard errors on either side: 95 of 100 samples
_MEANS = {
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

Row = tuple[str, list[str], str]
"""The name, a cell for each node, and the cell for all of them."""


def table(one: Placed, width: int) -> Iterator[str]:
    """The lines of one process's table, in blocks of as many nodes as fit the width."""
    yield f"{title(one)}: {bytes_written(one.resident)} in RAM"
    yield from (f"  {'' if index else 'asked':{_LABEL}}{wish}" for index, wish in enumerate(_wishes(one)))
    columns = max(1, (width - 2 - _LABEL - _COLUMN) // _COLUMN)
    rows = list(_rows(one))
    for first in range(0, max(1, len(one.nodes)), columns):  # a kernel without NUMA shows no node, and totals
        block = slice(first, first + columns)
        last = first + columns >= len(one.nodes)
        yield _line("", [f"node {node}" for node in one.nodes[block]], "all" if last else "")
        yield from (_line(name, cells[block], whole if last else "") for name, cells, whole in rows)
    yield from (f"  {name:{_LABEL}}{text}" for name, text in _told(one))


def title(one: Placed) -> str:
    """Who it is: `r1 rank 0 (PID 1211, VLLM::Worker_TP, vllm)`, or of a process by its number `PID 1211 (python)`."""
    if one.engine == f"PID {one.pid}":
        return f"{one.engine} ({one.command})"
    return f"{one.engine} rank {one.rank} (PID {one.pid}, {one.command}, {one.kind})"


def _line(name: str, cells: Sequence[str], whole: str) -> str:
    return f"  {name:{_LABEL}}{''.join(f'{cell:>{_COLUMN}}' for cell in cells)}{whole:>{_COLUMN}}".rstrip()


def _wishes(one: Placed) -> Iterator[str]:
    for wish in one.wishes:
        where = f" on node {wish.nodes}" if wish.nodes.isdecimal() else f" on nodes {wish.nodes}" if wish.nodes else ""
        cpus = f" (CPUs {wish.cpus})" if wish.cpus else ""
        yield f"{_MEANS.get(wish.policy, wish.policy)}{where}{cpus}, by {wish.source}"
    if not one.wishes:
        yield "nothing, as far as options, variables and cpusets tell"


def _rows(one: Placed) -> Iterator[Row]:
    for kind in KINDS:
        if one.memory.get(kind):
            cells = [_or_unknown(one.size(kind, node), bytes_written) for node in one.nodes]
            yield _NAMES[kind], cells, bytes_written(one.memory[kind])
    shares = [_or_unknown(one.shares.get(("", node)), share_written) for node in one.nodes]
    yield "share", shares, "" if "?" in shares else "100 %"
    for name, counts in (("threads", one.threads), ("  bound here", one.bound)):
        cells = [_or_unknown(counts.get(node), "{:.0f}".format) for node in one.nodes]
        yield name, cells, f"{sum(counts.values()):.0f}" if counts else "?"
    yield "work", [_or_unknown(one.work.get(node), lambda part: f"{100 * part:.0f} %") for node in one.nodes], ""


def _or_unknown(value: Any, written: Callable[[Any], str]) -> str:
    return "?" if value is None else written(value)


def share_written(share: Share) -> str:
    """A share in percent, and what it may be off by in 95 of 100 samples: `49.8 % ±1.5`."""
    error = f" ±{100 * _Z * share.error:.1f}" if share.error else ""
    return f"{100 * share.part:.1f} %{error}"


def _told(one: Placed) -> Iterator[tuple[str, str]]:
    if one.local is not None:
        yield "local", f"{share_written(one.local)} is on the nodes where its threads run"
    if one.policies:
        yield "policies", ", ".join(f"{policy} {bytes_written(size)}" for policy, size in one.policies.items())
    if one.cgroup is not None:
        left = _or_unknown(one.cgroup.available, bytes_written)
        limit = f" of {bytes_written(one.cgroup.limit)}" if one.cgroup.limit else ""
        where = f", set at {one.cgroup.limited_by}" if one.cgroup.limited_by else ""
        yield "cgroup", f"{left}{limit} left{where}"


def as_json(one: Placed) -> dict[str, Any]:
    """The same for programs; null is what is not known."""
    return {
        "engine": one.engine,
        "rank": one.rank,
        "pid": one.pid,
        "kind": one.kind,
        "command": one.command,
        "memory_bytes": dict(one.memory),
        "nodes": [_node_as_json(one, node) for node in one.nodes],
        "local": None if one.local is None else one.local._asdict(),
        "asked": [wish._asdict() for wish in one.wishes],
        "policies_bytes": dict(one.policies),
        "cgroup": None
        if one.cgroup is None
        else {
            "available_bytes": one.cgroup.available,
            "max_bytes": one.cgroup.limit,
            "limited_by": one.cgroup.limited_by,
        },
    }


def _node_as_json(one: Placed, node: str) -> dict[str, Any]:
    share = one.shares.get(("", node))
    return {
        "node": int(node),
        "share": None if share is None else share.part,
        "share_error": None if share is None else share.error,
        "bytes": {kind: one.size(kind, node) for kind in KINDS},
        "threads": one.threads.get(node),
        "threads_bound": one.bound.get(node),
        "work": one.work.get(node),
    }
