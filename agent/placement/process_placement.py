"""The placement of one process's memory as a frozen value, from the collector `process` or from numa_maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.placement.numa_maps import NumaMaps
from collectors import Sample, natural

KINDS = ("anon", "file", "shmem", "hugetlb")
_PREFIX = "steadytok_process_"
_PROCESS_LABELS = ("engine", "rank")
_WORK_THRESHOLD = 0.05  # of the processor time, as in the collector; less is a stray thread


class Share(NamedTuple):
    """A part of the resident pages, 0 to 1, and its standard error, which is 0 after a count of every page."""

    part: float
    error: float


class PlacementRequest(NamedTuple):
    """A request for placement: its source (an option, a variable, a cpuset), policy, and lists of nodes and CPUs."""

    source: str
    policy: str
    nodes: str
    cpus: str


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Bytes left below the limits of a process's cgroup, the smallest memory.max, and the cgroup that sets it."""

    available: float | None
    limit: float | None
    limited_by: str


@dataclass(frozen=True, slots=True)
class ProcessPlacement:
    """
    One process; unknown values are left out.

    memory: bytes in RAM by kind. nodes: every node. shares: by (kind, node), with the kind "" for all kinds together.
    threads: threads by the node they ran on last. bound_threads: threads that may run on one node only. work: part of
    the processor time by node. policies: bytes by memory policy, from numa_maps only.
    """

    engine: str
    rank: str
    pid: int
    kind: str
    command: str
    memory: Mapping[str, float]
    nodes: tuple[str, ...]
    shares: Mapping[tuple[str, str], Share]
    local: Share | None
    threads: Mapping[str, float]
    bound_threads: Mapping[str, float]
    work: Mapping[str, float]
    requests: tuple[PlacementRequest, ...]
    cgroup: Cgroup | None
    policies: Mapping[str, int]

    @property
    def resident(self) -> float:
        """Bytes in RAM."""
        return sum(self.memory.values())

    def size_on_node(self, kind: str, node: str) -> float | None:
        """Returns the bytes of a kind on a node; None when unknown."""
        share, total = self.shares.get((kind, node)), self.memory.get(kind)
        if total == 0:
            return 0.0
        return None if share is None or total is None else share.part * total


def from_samples(samples: Sequence[Sample]) -> list[ProcessPlacement]:
    """Builds the placement of every process in the Samples of the collector `process`, in their order."""
    by_process: dict[tuple[str, ...], list[tuple[str, dict[str, str], float]]] = {}
    for sample in samples:
        labels = dict(sample.labels)
        process_labels = tuple(labels.pop(name, "") for name in _PROCESS_LABELS)
        by_process.setdefault(process_labels, []).append(
            (sample.metric.name.removeprefix(_PREFIX), labels, sample.value)
        )
    placements = (
        _build_placement(process_labels, _ProcessSamples(rows)) for process_labels, rows in by_process.items()
    )
    return [one for one in placements if one is not None]


class _ProcessSamples:
    """The Samples of one process."""

    def __init__(self, rows: Sequence[tuple[str, dict[str, str], float]]) -> None:
        self._rows = rows

    def select(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        return ((labels, value) for sample_name, labels, value in self._rows if sample_name == name)

    def values_by_label(self, name: str, label: str) -> dict[str, float]:
        return {labels.get(label, ""): value for labels, value in self.select(name)}

    def first_value(self, name: str) -> float | None:
        return next((value for _, value in self.select(name)), None)

    def first_labels(self, name: str) -> dict[str, str]:
        return next((labels for labels, _ in self.select(name)), {})

    def read_shares(self, name: str) -> dict[tuple[str, str], Share]:
        errors = {
            (labels.get("kind", ""), labels.get("node", "")): value
            for labels, value in self.select(f"{name}_error_ratio")
        }
        keys = (
            ((labels.get("kind", ""), labels.get("node", "")), value) for labels, value in self.select(f"{name}_ratio")
        )
        return {key: Share(value, errors.get(key, 0.0)) for key, value in keys}


def _build_placement(process_labels: tuple[str, ...], samples: _ProcessSamples) -> ProcessPlacement | None:
    info = samples.first_labels("info")
    if not info:
        return None
    nodes = {
        labels["node"]
        for name in ("memory_allowed", "node_share_ratio", "threads")
        for labels, _ in samples.select(name)
    }
    requests = (request_labels for request_labels, _ in samples.select("asked_info"))
    return ProcessPlacement(
        engine=process_labels[0],
        rank=process_labels[1],
        pid=int(info["pid"]),
        kind=info.get("kind", ""),
        command=info.get("command", ""),
        memory=samples.values_by_label("memory_bytes", "kind"),
        nodes=tuple(sorted(nodes, key=natural)),
        shares={**samples.read_shares("kind_share"), **samples.read_shares("node_share")},
        local=samples.read_shares("local").get(("", "")),
        threads=samples.values_by_label("threads", "node"),
        bound_threads=samples.values_by_label("threads_bound", "node"),
        work=samples.values_by_label("run_share_ratio", "node"),
        requests=tuple(
            PlacementRequest(*(request_labels.get(name, "") for name in PlacementRequest._fields))
            for request_labels in requests
        ),
        cgroup=_build_cgroup(samples),
        policies={},
    )


def _build_cgroup(samples: _ProcessSamples) -> Cgroup | None:
    available = samples.first_value("cgroup_available_bytes")
    if available is None and samples.first_value("cgroup_max_bytes") is None:
        return None
    return Cgroup(
        available, samples.first_value("cgroup_max_bytes"), samples.first_labels("cgroup_info").get("limited_by", "")
    )


def from_numa_maps(process: ProcessPlacement, maps: NumaMaps) -> ProcessPlacement:
    """Returns the process with the counts of numa_maps in place of sampled shares."""
    by_kind: Counter[str] = Counter()
    by_node: Counter[str] = Counter()
    for (kind, node), size in maps.sizes.items():
        by_kind[kind] += size
        by_node[node] += size
    nodes = tuple(sorted({*process.nodes, *by_node}, key=natural))
    total = by_node.total()
    shares = {
        (kind, node): Share(maps.sizes[kind, node] / size, 0.0) for kind, size in by_kind.items() for node in nodes
    }
    if total:
        shares |= {("", node): Share(by_node[node] / total, 0.0) for node in nodes}
    work_nodes = [node for node, share in process.work.items() if share >= _WORK_THRESHOLD]
    local = Share(sum(by_node[node] for node in work_nodes) / total, 0.0) if work_nodes and total else None
    memory = {kind: float(by_kind[kind]) for kind in KINDS}
    return replace(
        process, memory=memory, nodes=nodes, shares=shares, local=local, policies=dict(maps.policies.most_common())
    )
