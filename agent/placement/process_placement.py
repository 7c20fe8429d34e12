"""Where the memory of one engine process is, as the collector `process` or numa_maps tells it: a frozen value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.placement.numa_maps import NumaMaps
from collectors import Sample, natural

KINDS = ("anon", "file", "shmem", "hugetlb")
_PREFIX = "steadytok_process_"
_WHO = ("engine", "rank")
_WORKS = 0.05  # of the processor time, as the collector has it: less is a stray thread


class Share(NamedTuple):
    """A part of the resident pages, 0 to 1, and its standard error; 0 where every page was asked."""

    part: float
    error: float


class Wish(NamedTuple):
    """What was asked: by what, with which policy, and the nodes and CPUs as lists, empty where it named none."""

    source: str
    policy: str
    nodes: str
    cpus: str


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Bytes that are left below the limits of a process's cgroup, the smallest memory.max, and whose that is."""

    available: float | None
    limit: float | None
    limited_by: str


@dataclass(frozen=True, slots=True)
class Placed:
    """
    One process. What is not known is not in it.

    memory: bytes in RAM by kind. nodes: every node. shares: by (kind, node), and of all kinds together under "".
    threads, bound: threads that ran last on a node, and those that may run on no other. work: part of the processor
    time. policies: bytes by memory policy, known from numa_maps only.
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
    bound: Mapping[str, float]
    work: Mapping[str, float]
    wishes: tuple[Wish, ...]
    cgroup: Cgroup | None
    policies: Mapping[str, int]

    @property
    def resident(self) -> float:
        """All bytes in RAM."""
        return sum(self.memory.values())

    def size(self, kind: str, node: str) -> float | None:
        """Bytes of a kind on a node, as far as that is known."""
        share, whole = self.shares.get((kind, node)), self.memory.get(kind)
        if whole == 0:
            return 0.0
        return None if share is None or whole is None else share.part * whole


def placed(samples: Sequence[Sample]) -> list[Placed]:
    """Every process that the Samples of the collector `process` tell of, in their order."""
    by_process: dict[tuple[str, ...], list[tuple[str, dict[str, str], float]]] = {}
    for sample in samples:
        labels = dict(sample.labels)
        who = tuple(labels.pop(name, "") for name in _WHO)
        by_process.setdefault(who, []).append((sample.metric.name.removeprefix(_PREFIX), labels, sample.value))
    made = (_placed(who, _Told(rows)) for who, rows in by_process.items())
    return [one for one in made if one is not None]


class _Told:
    """The Samples of one process."""

    def __init__(self, rows: Sequence[tuple[str, dict[str, str], float]]) -> None:
        self._rows = rows

    def of(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        return ((labels, value) for told, labels, value in self._rows if told == name)

    def by(self, name: str, label: str) -> dict[str, float]:
        return {labels.get(label, ""): value for labels, value in self.of(name)}

    def one(self, name: str) -> float | None:
        return next((value for _, value in self.of(name)), None)

    def labels(self, name: str) -> dict[str, str]:
        return next((labels for labels, _ in self.of(name)), {})

    def shares(self, name: str) -> dict[tuple[str, str], Share]:
        errors = {(of.get("kind", ""), of.get("node", "")): value for of, value in self.of(f"{name}_error_ratio")}
        keys = (((of.get("kind", ""), of.get("node", "")), value) for of, value in self.of(f"{name}_ratio"))
        return {key: Share(value, errors.get(key, 0.0)) for key, value in keys}


def _placed(who: tuple[str, ...], told: _Told) -> Placed | None:
    info = told.labels("info")
    if not info:
        return None
    nodes = {
        labels["node"] for name in ("memory_allowed", "node_share_ratio", "threads") for labels, _ in told.of(name)
    }
    asked = (of for of, _ in told.of("asked_info"))
    return Placed(
        engine=who[0],
        rank=who[1],
        pid=int(info["pid"]),
        kind=info.get("kind", ""),
        command=info.get("command", ""),
        memory=told.by("memory_bytes", "kind"),
        nodes=tuple(sorted(nodes, key=natural)),
        shares={**told.shares("kind_share"), **told.shares("node_share")},
        local=told.shares("local").get(("", "")),
        threads=told.by("threads", "node"),
        bound=told.by("threads_bound", "node"),
        work=told.by("run_share_ratio", "node"),
        wishes=tuple(Wish(*(of.get(name, "") for name in Wish._fields)) for of in asked),
        cgroup=_cgroup(told),
        policies={},
    )


def _cgroup(told: _Told) -> Cgroup | None:
    available = told.one("cgroup_available_bytes")
    if available is None and told.one("cgroup_max_bytes") is None:
        return None
    return Cgroup(available, told.one("cgroup_max_bytes"), told.labels("cgroup_info").get("limited_by", ""))


def exactly(one: Placed, maps: NumaMaps) -> Placed:
    """The same process with what numa_maps has counted in place of what was sampled."""
    by_kind: Counter[str] = Counter()
    by_node: Counter[str] = Counter()
    for (kind, node), size in maps.sizes.items():
        by_kind[kind] += size
        by_node[node] += size
    nodes = tuple(sorted({*one.nodes, *by_node}, key=natural))
    whole = by_node.total()
    shares = {
        (kind, node): Share(maps.sizes[kind, node] / size, 0.0) for kind, size in by_kind.items() for node in nodes
    }
    if whole:
        shares |= {("", node): Share(by_node[node] / whole, 0.0) for node in nodes}
    worked = [node for node, part in one.work.items() if part >= _WORKS]
    local = Share(sum(by_node[node] for node in worked) / whole, 0.0) if worked and whole else None
    memory = {kind: float(by_kind[kind]) for kind in KINDS}
    return replace(
        one, memory=memory, nodes=nodes, shares=shares, local=local, policies=dict(maps.policies.most_common())
    )
