"""Nodes, distances and settings: gaps in the numbers, memory-only nodes, empty files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from collectors import Host, Reading, topology

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

NODE = "sys/devices/system/node"


def test_distances_follow_the_nodes_that_are_there(machine: Machine, series: Series) -> None:
    """On a host with the nodes 0, 2 and 10 the third column is node 10."""
    host = machine({f"{NODE}/node{node}/distance": "10 20 30\n" for node in (10, 2, 0)})
    values = series(topology.collect(host))

    assert values['steadytok_topology_node_distance{node="0",to="2"}'] == 20
    assert values['steadytok_topology_node_distance{node="0",to="10"}'] == 30


@pytest.mark.parametrize("text", ["10", "10 20 30", "10 -20", "10 2x", "10,20"])
def test_distances_that_do_not_fit_are_missing(machine: Machine, series: Series, text: str) -> None:
    """A column too few or too many would give a node another's distance."""
    host = machine({f"{NODE}/node0/distance": text, f"{NODE}/node1/distance": "20 10"})
    values = series(topology.collect(host))

    assert [name for name in values if "distance" in name] == [
        'steadytok_topology_node_distance{node="1",to="0"}',
        'steadytok_topology_node_distance{node="1",to="1"}',
    ]
    assert f"{NODE}/node0/distance" in [note.path for note in host.take_notes()]


def test_a_memory_only_node_has_no_cpus(machine: Machine, series: Series) -> None:
    """CXL memory is a node with an empty list of CPUs."""
    host = machine({f"{NODE}/has_cpu": "0", f"{NODE}/node0/cpulist": "0-3", f"{NODE}/node2/cpulist": "\n"})
    values = series(topology.collect(host))

    assert values['steadytok_topology_node_cpus{node="0"}'] == 4
    assert values['steadytok_topology_node_cpus{node="2"}'] == 0


def test_without_isolated_cpus_there_is_no_series(machine: Machine, series: Series) -> None:
    """The empty file of most hosts is no reading and no error."""
    host = machine({"sys/devices/system/cpu/isolated": "\n"})

    assert series(topology.collect(host)) == {}
    assert host.take_notes() == []


def test_the_word_in_brackets_is_the_choice(machine: Machine, series: Series) -> None:
    """`always [madvise] never` is madvise; a file without brackets gives no label and is noted."""
    thp = "sys/kernel/mm/transparent_hugepage"
    host = machine({f"{thp}/enabled": "always [madvise] never\n", f"{thp}/defrag": "always never\n"})

    assert series(topology.collect(host)) == {'steadytok_topology_transparent_hugepage_info{enabled="madvise"}': 1}
    assert [note.path for note in host.take_notes()] == [f"{thp}/defrag"]
