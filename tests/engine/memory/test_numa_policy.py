"""The option --numa on this and other machines, and the results of the kernel's calls."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.memory import mempolicy, numa_policy
from engine.memory.locality import SAMPLE_PAGES, Locality
from engine.memory.numa_nodes import NumaNode, list_nodes
from engine.memory.numa_policy import NumaOption

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
TWO = [NumaNode(0, frozenset({0, 1}), 700 * MIB), NumaNode(1, frozenset({2, 3, 8}), 500 * MIB)]


@pytest.mark.parametrize("text", ["interleave", "replicate", "bind:0", "bind:12"])
def test_words(text: str) -> None:
    """The three options are formatted as they were parsed."""
    assert str(numa_policy.parse_option(text)) == text


@pytest.mark.parametrize("text", ["", "bind", "bind:", "bind:-1", "bind:0,1", "Interleave", "numactl", "bind:٣"])
def test_other_words_are_refused(text: str) -> None:
    """Anything else is an error that lists the options."""
    with pytest.raises(ValueError, match="--numa must be interleave, bind:N or replicate"):
        numa_policy.parse_option(text)


def test_a_node_that_is_not_there_is_refused_with_those_that_are() -> None:
    """The sentence has each node with its CPUs and memory."""
    assert numa_policy.select_nodes(NumaOption("bind", 1), TWO) == [TWO[1]]
    assert numa_policy.select_nodes(NumaOption("interleave"), TWO) == TWO

    with pytest.raises(ValueError, match="no node 7") as refused:
        numa_policy.select_nodes(NumaOption("bind", 7), TWO)
    assert "node 0 with CPUs 0-1 and 700.0 MiB available; node 1 with CPUs 2-3,8 and 500.0 MiB" in str(refused.value)
    with pytest.raises(ValueError, match="lists no node with memory and usable CPUs"):
        numa_policy.select_nodes(NumaOption("interleave"), [])


@pytest.mark.parametrize(
    ("option", "nodes", "expected"),
    [
        (NumaOption("bind", 1), TWO[1:], "--numa bind:1: memory and threads on node 1 (CPUs 2-3,8)"),
        (NumaOption("interleave"), TWO, "--numa interleave: memory in turn on nodes 0 and 1 (CPUs 0-3,8)"),
        (NumaOption("replicate"), TWO, "--numa replicate: a worker on each of nodes 0 and 1 (CPUs 0-3,8)"),
        (
            NumaOption("interleave"),
            TWO[:1],
            "--numa interleave: only node 0 has memory and usable CPUs, so there is nothing to spread "
            "over: everything is on it",
        ),
        (
            NumaOption("replicate"),
            TWO[:1],
            "--numa replicate: only node 0 has memory and usable CPUs, so there is nothing to "
            "replicate: everything is on it",
        ),
    ],
)
def test_what_it_comes_to_is_said(option: NumaOption, nodes: list[NumaNode], expected: str) -> None:
    """One sentence describes the effect, also on one node, where the option has none."""
    assert numa_policy.describe_option(option, nodes) == expected


BOUND = """
import json, os
from engine.memory import mempolicy as numa, numa_policy as policy
from engine.memory.numa_nodes import list_nodes
selected = policy.select_nodes(policy.parse_option("bind:%d"), list_nodes(os.sched_getaffinity(0)))
policy.apply_option(policy.parse_option("bind:%d"), selected)
held = numa.get_policy()
print(json.dumps([held.mode.name, sorted(held.nodes), sorted(os.sched_getaffinity(0))]))
"""


def test_the_kernel_holds_what_was_set() -> None:
    """get_mempolicy(2) returns the policy of set_mempolicy(2), and the CPUs are those of the node."""
    node = _get_first_node()
    code = BOUND % (node.number, node.number)
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if "CAP_SYS_NICE" in completed.stderr:
        pytest.skip("this sandbox does not allow memory policies")

    assert json.loads(completed.stdout) == ["BIND", [node.number], sorted(node.cpus)]


def test_the_kernel_tells_where_pages_are() -> None:
    """move_pages(2) returns the node of a touched page, and an error for an untouched page."""
    node = _get_first_node()
    with mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[0] = 1
        start = ctypes.addressof(first := ctypes.c_char.from_buffer(memory))
        page_nodes = _get_page_nodes([start, start + 40 * mmap.PAGESIZE])
        del first

    assert page_nodes[0] in {one.number for one in list_nodes(os.sched_getaffinity(0))} | {node.number}
    assert page_nodes[1] < 0


def test_what_the_kernel_refuses_is_a_sentence() -> None:
    """A missing node is EINVAL, with the name of the call."""
    with pytest.raises(OSError, match=r"set_mempolicy\(2\) says"):
        mempolicy.set_policy(mempolicy.PolicyMode.BIND, [1000])


def test_an_unknown_processor_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the calls differ by architecture: on an unknown one, nothing is called."""
    monkeypatch.setattr("platform.machine", lambda: "sparc64")

    with pytest.raises(OSError, match=r"the number of set_mempolicy\(2\) on sparc64 is unknown"):
        mempolicy.set_policy(mempolicy.PolicyMode.DEFAULT, ())
    assert Locality("interleave", [np.ones(4096, np.float32)], {}).sample_shares().shares == {}
    assert "are unknown: the number of" in Locality("interleave", [np.ones(4096, np.float32)], {}).describe()
    assert Locality("interleave", [np.ones(4096, np.float32)], {}).render_exposition() == ""


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_the_sample_is_spread_over_all_arrays(sizes: list[int]) -> None:
    """Each address lies in an array, and each array has its share of addresses, to one."""
    arrays = [np.empty(size, np.uint8) for size in sizes]
    addresses = Locality(None, arrays, {})._addresses
    inside = [
        sum(array.ctypes.data <= address < array.ctypes.data + array.nbytes for address in addresses)
        for array in arrays
    ]

    assert sum(inside) == len(addresses) == SAMPLE_PAGES
    assert all(abs(n - SAMPLE_PAGES * size / sum(sizes)) <= 1 for n, size in zip(inside, sizes, strict=True))


def test_what_was_asked_and_what_was_got_are_both_told() -> None:
    """The description, the fields and the exposition have the same shares, which add up to 1."""
    weights = np.ones(8 * MIB, np.uint8)
    locality = Locality("interleave", [weights], {0: 2})
    fields: dict[str, Any] = locality.to_fields()
    if fields["weights_pages"] is None:
        pytest.skip("this sandbox does not report the nodes of pages")

    assert (fields["asked"], fields["threads"]) == ("interleave", {"0": 2})
    assert sum(fields["weights_pages"].values()) == pytest.approx(1.0)
    for node, share in fields["weights_pages"].items():
        assert f'steadytok_reference_weights_pages_ratio{{node="{node}"}} {share!r}\n' in locality.render_exposition()
        assert f"{100 * share:.0f} % on node {node}; threads: 2 on node 0" in locality.describe()


def _get_first_node() -> NumaNode:
    nodes = list_nodes(os.sched_getaffinity(0))
    if not nodes:
        pytest.skip("this kernel shows no NUMA nodes")
    return nodes[0]


def _get_page_nodes(addresses: list[int]) -> list[int]:
    try:
        return mempolicy.get_page_nodes(addresses)
    except OSError as error:
        pytest.skip(f"this sandbox does not report the nodes of pages: {error}")
