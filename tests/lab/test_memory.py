"""Our readings of memory agree with a real kernel of two nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.lab.conftest import StageReader
from tests.lab.guest_memory import SIZE
from tests.lab.machine import DISTANCE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

PAGES = SIZE // 4096
# The most bytes that a field may change between two readings, beyond the difference of the two.
MAX_CHANGE = 2 << 20
FIELDS = {
    "MemTotal": "mem_total",
    "MemFree": "mem_free",
    "MemUsed": "mem_used",
    "Active(anon)": "active_anon",
    "Inactive(file)": "inactive_file",
    "FilePages": "file_pages",
    "Mapped": "mapped",
    "AnonPages": "anon_pages",
    "KernelStack": "kernel_stack",
    "PageTables": "page_tables",
    "SReclaimable": "sreclaimable",
    "Slab": "slab",
}
COUNTERS = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")


def kernel_bytes(text: str, field: str) -> int:
    """Returns a field of a meminfo file in bytes."""
    match = re.search(rf"\b{re.escape(field)}:\s+(\d+) kB", text)
    assert match is not None, f"the kernel has no {field}"
    return int(match[1]) * 1024


def get_growth(readings: Mapping[str, Mapping[str, float]], key: str, node: int) -> float:
    """Returns the increase of a counter of a node."""
    name = f'steadytok_numastat_{key}_total{{node="{node}"}}'
    return readings["after"][name] - readings["before"][name]


def test_nodes_are_as_the_machine_was_built(read_stage: StageReader) -> None:
    """Two nodes with two CPUs each, at the distances of the command line."""
    topology = read_stage("nodes")["topology"]

    assert topology["steadytok_topology_nodes"] == 2
    assert [topology[f'steadytok_topology_node_cpus{{node="{node}"}}'] for node in (0, 1)] == [2, 2]
    for node, other in ((0, 0), (0, 1), (1, 0), (1, 1)):
        name = f'steadytok_topology_node_distance{{node="{node}",to="{other}"}}'
        assert topology[name] == (10 if node == other else DISTANCE)


def test_the_command_line_reads_them_too(read_stage: StageReader) -> None:
    """`steadytok collect --json` prints the same nodes and no error, and succeeds."""
    result = read_stage("nodes")
    printed = {(row["name"], *sorted(row["labels"].items())): row["value"] for row in result["collect"]}

    assert (result["status"], result["complaints"]) == (0, [])
    assert printed["steadytok_topology_nodes",] == 2
    for node in ("0", "1"):
        total = f'steadytok_topology_node_memory_bytes{{node="{node}"}}'
        assert printed["steadytok_node_meminfo_mem_total_bytes", ("node", node)] == result["topology"][total]
        assert printed["steadytok_stat_cpus_online", ("node", node)] == 2


def test_every_collector_with_files_reads(read_stage: StageReader) -> None:
    """Every collector whose files this kernel has returns samples, also pressure and the kernel log."""
    subjects = {row["name"].split("_")[1] for row in read_stage("nodes")["collect"]}

    assert subjects >= {"meminfo", "node", "numastat", "vmstat", "stat", "pressure", "cpufreq", "hwmon", "dimm", "kmsg"}


@pytest.mark.parametrize("node", [0, 1])
def test_node_meminfo_is_the_kernels(read_stage: StageReader, node: int) -> None:
    """Each field of a node is between its values in the kernel's own file before and after, in bytes."""
    result = read_stage("nodes")
    for field, name in FIELDS.items():
        ends = [kernel_bytes(result[when][f"node{node}/meminfo"], field) for when in ("before", "after")]
        read = result["read"][f'steadytok_node_meminfo_{name}_bytes{{node="{node}"}}']

        assert min(ends) - MAX_CHANGE <= read <= max(ends) + MAX_CHANGE, field


def test_memory_adds_up(read_stage: StageReader) -> None:
    """The memory of the nodes adds up to the host's, to the byte."""
    result = read_stage("nodes")
    nodes = [result["read"][f'steadytok_node_meminfo_mem_total_bytes{{node="{node}"}}'] for node in (0, 1)]

    assert sum(nodes) == result["read"]["steadytok_meminfo_mem_total_bytes"]
    assert sum(nodes) == kernel_bytes(result["before"]["meminfo"], "MemTotal")


def test_available_memory_is_about_the_kernels(read_stage: StageReader) -> None:
    """Our figures by node add up to the kernel's for the host, within a twentieth of the memory."""
    read = read_stage("nodes")["read"]
    nodes = [read[f'steadytok_node_meminfo_available_bytes{{node="{node}"}}'] for node in (0, 1)]

    assert (
        abs(sum(nodes) - read["steadytok_meminfo_mem_available_bytes"]) < read["steadytok_meminfo_mem_total_bytes"] / 20
    )


@pytest.mark.parametrize("node", [0, 1])
def test_numastat_is_the_kernels(read_stage: StageReader, node: int) -> None:
    """Each counter is between its values in the kernel's file before and after."""
    result = read_stage("nodes")
    before, after = (
        dict(re.findall(r"(\w+) (\d+)", result[when][f"node{node}/numastat"])) for when in ("before", "after")
    )
    for key in COUNTERS:
        read = result["read"][f'steadytok_numastat_{key}_total{{node="{node}"}}']

        assert int(before[key]) <= read <= int(after[key]), key


def test_a_local_allocation_hits_its_node(read_stage: StageReader) -> None:
    """Memory on its task's node counts as hit and local there, and hardly at all elsewhere."""
    for policy, node in (("local", 0), ("membind", 1)):
        readings = read_stage("allocations")[policy]

        assert PAGES <= get_growth(readings, "numa_hit", node) < 1.5 * PAGES
        assert PAGES <= get_growth(readings, "local_node", node) < 1.5 * PAGES
        assert get_growth(readings, "numa_hit", 1 - node) < PAGES / 4


def test_a_task_bound_elsewhere_shows_as_other_node(read_stage: StageReader) -> None:
    """A task on node 0 bound to the memory of node 1 counts as hit and other_node there, and never as a miss."""
    readings = read_stage("allocations")["elsewhere"]

    assert PAGES <= get_growth(readings, "numa_hit", 1) < 1.5 * PAGES
    assert PAGES <= get_growth(readings, "other_node", 1) < 1.5 * PAGES
    assert get_growth(readings, "local_node", 1) < PAGES / 4
    assert [get_growth(readings, key, node) for key in ("numa_miss", "numa_foreign") for node in (0, 1)] == [0, 0, 0, 0]


def test_interleaving_hits_both_nodes(read_stage: StageReader) -> None:
    """Half the pages count as interleave_hit on each node, and the other node's half also as other_node."""
    readings = read_stage("allocations")["interleave"]
    hits = [get_growth(readings, "interleave_hit", node) for node in (0, 1)]

    assert all(0.9 * PAGES / 2 <= hit < 1.5 * PAGES / 2 for hit in hits)
    assert get_growth(readings, "other_node", 1) >= 0.9 * PAGES / 2


def test_numastat_counts_allocations_and_not_bytes(read_stage: StageReader) -> None:
    """The same memory in huge pages counts a fraction: the counters do not measure bytes."""
    result = read_stage("allocations")

    assert get_growth(result["huge"], "numa_hit", 1) < get_growth(result["membind"], "numa_hit", 1) / 2


def test_spilled_pages_are_missed_here_and_foreign_there(read_stage: StageReader) -> None:
    """Requests beyond node 1's memory count as numa_foreign there and numa_miss on node 0, one for one."""
    readings = read_stage("spilled")
    misses, foreign = get_growth(readings, "numa_miss", 0), get_growth(readings, "numa_foreign", 1)

    assert misses >= readings["spilled"] / 4096 / 2
    assert foreign == pytest.approx(misses, rel=0.02)
    assert get_growth(readings, "numa_miss", 1) < misses / 50


def test_counters_that_stand_still_are_missing(read_stage: StageReader) -> None:
    """With vm.numa_stat=0 the kernel's files have 0; we have no samples, and one note that names the setting."""
    result = read_stage("numa_stat")

    assert set(re.findall(r"\d+", result["raw_off"])) == {"0"}
    assert result["off"]["series"] == {}
    assert [path for path, _ in result["off"]["notes"]] == ["proc/sys/vm/numa_stat"]
    assert result["sysctl_off"] == 0
    assert (len(result["on"]["series"]), result["on"]["notes"]) == (2 * len(COUNTERS), [])


def test_huge_pages_are_counted_on_their_node(read_stage: StageReader) -> None:
    """Eight huge pages reserved on node 1 count there and for the host, and none on node 0."""
    read = read_stage("huge_pages")["read"]
    of_node = 'steadytok_topology_node_huge_pages{{node="{}",size="2048kB",state="total"}}'
    of_meminfo = 'steadytok_node_meminfo_huge_pages{{node="{}",state="free"}}'

    assert [read[of_node.format(node)] for node in (0, 1)] == [0, 8]
    assert [read[of_meminfo.format(node)] for node in (0, 1)] == [0, 8]
    assert read['steadytok_meminfo_huge_pages{state="total"}'] == 8
