"""The reference engine under --numa has its memory and threads on the requested nodes of a real kernel."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.lab.conftest import StageReader
from tests.lab.machine import TWO_NODES

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

PAGE = 4096


def weights_pages(ready: dict[str, Any]) -> float:
    """Returns the number of pages of the weights."""
    return float(ready["weights_bytes"]) / PAGE


def parse_ratios(metrics: str) -> dict[str, float]:
    """Returns the share of the weights' pages on each node, from /metrics of one engine."""
    ratios = re.findall(r'^steadytok_reference_weights_pages_ratio\{node="(\d)"\} (\S+)$', metrics, re.MULTILINE)
    return {node: float(value) for node, value in ratios}


def test_interleave_puts_half_on_each_node(read_stage: StageReader) -> None:
    """The weights' pages are evenly on both nodes, by move_pages(2) for a sample and by numa_maps for all."""
    result = read_stage("engine_placed")["interleave"]
    shares = result["ready"]["numa"]["weights_pages"]

    assert shares == {"0": pytest.approx(0.5, abs=0.06), "1": pytest.approx(0.5, abs=0.06)}
    assert parse_ratios(result["metrics"]) == {node: pytest.approx(share, abs=0.06) for node, share in shares.items()}
    assert all(pages > 0.45 * weights_pages(result["ready"]) for pages in result["kernel"]["pages"].values())


def test_interleave_spreads_its_threads(read_stage: StageReader) -> None:
    """The second thread of BLAS is bound to node 1's CPUs; those of Python may run on both nodes."""
    result = read_stage("engine_placed")["interleave"]

    assert result["ready"]["numa"]["threads"] == {"0": 1, "1": 1}
    assert sorted(set(result["kernel"]["threads"].values())) == ["0-3", TWO_NODES.cpus[1]]
    assert "--numa interleave: memory in turn on nodes 0 and 1 (CPUs 0-3)" in result["log"]


def test_bind_takes_memory_and_processors_of_one_node(read_stage: StageReader) -> None:
    """All sampled pages, at least as many pages as the weights have, and all threads are on node 1."""
    result = read_stage("engine_placed")["bind"]

    assert result["ready"]["numa"] == {"asked": "bind:1", "weights_pages": {"1": 1.0}, "threads": {"1": 2}}
    assert parse_ratios(result["metrics"]) == {"1": 1.0}
    assert result["kernel"]["pages"]["1"] > weights_pages(result["ready"])
    assert set(result["kernel"]["threads"].values()) == {TWO_NODES.cpus[1]}
    assert "sampled pages of the weights: 100 % on node 1; threads: 2 on node 1" in result["log"]


def test_impossible_placements_are_refused_first(read_stage: StageReader) -> None:
    """
    A missing node, a node that is too small on a large enough host, and a second copy that does not fit are refused.

    The second copy may not fit the host or not a node: that depends on the memory of the guest's kernel on each node.
    """
    refused = read_stage("engine_placed")["refused"]
    needed = r"\S+ MiB are needed, more than the \S+ MiB that"

    assert "there is no node 7" in refused["no node"]
    assert "node 0 with CPUs 0-1 and" in refused["no node"]
    assert "node 1 with CPUs 2-3 and" in refused["no node"]
    assert re.search(rf"{needed} node 1 \(--numa bind:1\) has", refused["no room"])
    twice = r"2 x \S+ MiB = \S+ MiB are needed, more than the \S+ MiB that this host"
    assert re.search(rf"{twice}|{needed} node 1", refused["no room twice"])


def test_replicate_has_a_local_worker_on_each_node(read_stage: StageReader) -> None:
    """Each worker's weights and threads are wholly on its node, and both answer requests."""
    result = read_stage("engine_replicated")
    workers = result["ready"]["workers"]

    assert [worker["node"] for worker in workers] == [0, 1]
    for node, worker in (("0", workers[0]), ("1", workers[1])):
        kernel = result["kernel"][node]

        assert worker["numa"]["weights_pages"] == {node: 1.0}
        assert kernel["pages"][node] > weights_pages(result["ready"])
        assert set(kernel["threads"].values()) == {TWO_NODES.cpus[int(node)]}
        assert f'steadytok_reference_weights_pages_ratio{{worker="{node}",node="{node}"}} 1.0' in result["metrics"]
        assert f'steadytok_reference_worker_requests_total{{worker="{node}"}} 2' in result["metrics"]


def test_a_dead_worker_is_replaced_on_its_node(read_stage: StageReader) -> None:
    """The other one answers meanwhile; the new one is on node 1 again, with the pace that was set before its start."""
    result = read_stage("engine_replicated")

    assert (result["answered"], result["back"]) == ([2, 2], True)
    assert "the worker of node 1 was ended by SIGKILL (signal 9)" in result["log"]
    assert 'steadytok_reference_worker_starts_total{worker="1"} 2' in result["after"]
    assert 'steadytok_reference_weights_pages_ratio{worker="1",node="1"} 1.0' in result["after"]
    assert 'steadytok_reference_duty{worker="1"} 0.5' in result["after"]
