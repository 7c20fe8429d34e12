"""
Collects the placement requested of an engine by options, environment, numactl above it, or its cpuset.

Reads /proc/PID/{cmdline,environ,status} and the command lines above it. Only the environment variables of a fixed list
are read, because the others may hold passwords. A policy that numactl(8) set without leaving words behind shows in
numa_maps only, which no collector reads (`steadytok placement --exact` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from collectors._host.cpulist import format_cpulist, parse_cpulist
from collectors._host.host import Host
from collectors._host.nodes import FOLDER, read_cpulist
from collectors._host.sample import Reading, gauge
from collectors._process import placement_options as words_of
from collectors._process import private_files
from collectors._process.engine_processes import EngineProcess
from collectors._process.placement_options import VARIABLES, PlacementOption, Topology
from collectors._process.stat import read_stat, read_status

_MAX_GENERATIONS = 8  # generations: a worker, its engine, a server, a shell or two
_MAX_LABEL = 100  # characters of a list of numbers in a label

INFO = gauge(
    "steadytok_process_asked_info",
    "A placement request: its source, its policy, and the nodes and CPUs that it names, if any; always 1.",
)
NODE = gauge("steadytok_process_asked_node", "A requested node, by the request's source and policy; always 1.")
METRICS = (INFO, NODE)


def collect_requests(
    host: Host, process: EngineProcess, cpus_of: Mapping[str, frozenset[int]], labels: dict[str, str]
) -> Iterator[Reading]:
    """Yields every placement requested of a process; nothing where there is no request."""
    for request in find_requests(host, process, cpus_of):
        request_labels = {"source": request.source, "policy": request.policy}
        yield INFO.sample(
            1, **labels, **request_labels, nodes=_format_label(request.nodes), cpus=_format_label(request.cpus)
        )
        for node in sorted(request.nodes):
            yield NODE.sample(1, **labels, **request_labels, node=str(node))


def find_requests(host: Host, process: EngineProcess, cpus_of: Mapping[str, frozenset[int]]) -> list[PlacementOption]:
    """Returns the requests for a process, one for each source; the request nearest to the process counts."""
    topology = {int(node): cpus for node, cpus in cpus_of.items()}
    requests: dict[tuple[str, str], PlacementOption] = {}
    for request in _parse_requests(host, process, topology):
        requests.setdefault((request.source, request.policy if request.source == "numactl" else ""), request)
    return list(requests.values())


def _parse_requests(host: Host, process: EngineProcess, topology: Topology) -> Iterator[PlacementOption]:
    yield from words_of.parse_variables(_read_variables(host, process.pid), process.kind, process.rank, topology)
    pid = process.pid
    for _ in range(_MAX_GENERATIONS):
        words = _read_command_line(host, pid)
        yield from words_of.parse_options(words, process.rank, topology)
        yield from words_of.parse_numactl(words, topology)
        process_stat = read_stat(host, pid)
        if process_stat is None or process_stat.parent <= 1:
            break
        pid = process_stat.parent
    yield from _parse_cpuset(host, process.pid)


def _read_command_line(host: Host, pid: int) -> list[str]:
    return host.read_strings(f"proc/{pid}/cmdline")


def _read_variables(host: Host, pid: int) -> dict[str, str]:
    if (private_info := private_files.read_private_info(host, pid)) is not None:
        return {name: value for name, value in private_info.variables.items() if name in VARIABLES}
    pairs = (entry.partition("=") for entry in host.read_strings(f"proc/{pid}/environ"))
    return {name: value for name, _, value in pairs if name in VARIABLES}


def _parse_cpuset(host: Host, pid: int) -> Iterator[PlacementOption]:
    """Yields a request where a cpuset omits a node with memory. https://man7.org/linux/man-pages/man7/cpuset.7.html"""
    process_status = read_status(host, pid)
    allowed = None if process_status is None else parse_cpulist(process_status.nodes)
    memory_nodes = read_cpulist(host, f"{FOLDER}/has_memory") if host.exists(f"{FOLDER}/has_memory") else None
    if allowed is not None and memory_nodes is not None and memory_nodes - allowed:
        yield PlacementOption("cpuset", "bind", allowed & memory_nodes)


def _format_label(numbers: frozenset[int]) -> str:
    """Formats a list for a label; a list that is too long is left out, since a cut list would be a different list."""
    text = format_cpulist(numbers)
    return text if len(text) <= _MAX_LABEL else ""
