"""Cgroup limits, cpusets and numactl's requests on a real kernel."""

from __future__ import annotations

import re

import pytest

from tests.lab.conftest import StageReader

pytestmark = pytest.mark.lab

MIB = 1 << 20


def get_value(series: dict[str, float], name: str, **labels: str) -> float:
    """Returns the only value of a metric with these labels."""
    pairs = [f'{label}="{text}"' for label, text in labels.items()]
    (values,) = (
        value
        for key, value in series.items()
        if key.startswith(f"steadytok_process_{name}{{") and all(pair in key for pair in pairs)
    )
    return values


def test_the_parents_smaller_limit_is_found(read_stage: StageReader) -> None:
    """The process's cgroup has a limit of 256 MiB, its parent of 128: limit and usage are the parent's."""
    result = read_stage("limits")
    before, counted = result["before"], result["counted"]

    assert get_value(before, "cgroup_max_bytes") == 128 * MIB
    assert get_value(before, "cgroup_info", cgroup="/pod/c", limited_by="/pod") == 1
    assert get_value(before, "cgroup_current_bytes") == pytest.approx(int(counted["pod current"]), abs=2 * MIB)
    assert 40 * MIB < get_value(before, "cgroup_current_bytes") < 128 * MIB


def test_cache_of_a_file_is_still_available(read_stage: StageReader) -> None:
    """A large file in the page cache raises the usage by its size, and leaves the available memory as before."""
    result = read_stage("limits")
    grown, available = (
        get_value(result["after"], name) - get_value(result["before"], name)
        for name in ("cgroup_current_bytes", "cgroup_available_bytes")
    )

    assert grown > 8 * MIB
    assert abs(available) < 0.2 * grown


def test_anonymous_memory_is_exposed_by_node(read_stage: StageReader) -> None:
    """The cpuset has node 1 only, and the kernel has charged the 40 MiB there."""
    before = read_stage("limits")["before"]

    assert get_value(before, "cgroup_anon_bytes", node="1") == pytest.approx(40 * MIB, abs=8 * MIB)
    assert get_value(before, "cgroup_anon_bytes", node="0") < 2 * MIB


def test_events_have_the_kernels_words(read_stage: StageReader) -> None:
    """Every key of memory.events is an event."""
    result = read_stage("limits")
    words = re.findall(r"^(\w+) \d+$", result["counted"]["pod events"], re.MULTILINE)

    assert {"low", "high", "max", "oom", "oom_kill"} <= set(words)
    assert [get_value(result["before"], "cgroup_memory_events_total", event=word) for word in words] == [0] * len(words)


def test_a_cpuset_and_a_variable_are_wishes(read_stage: StageReader) -> None:
    """The cpuset without node 0 is exposed; other variables, and those of another engine, are not."""
    before = read_stage("limits")["before"]

    assert get_value(before, "asked_node", source="cpuset", policy="bind", node="1") == 1
    assert not [key for key in before if "secret" in key or "HF_TOKEN" in key]
    assert not [key for key in before if "asked_" in key and 'source="cpuset"' not in key]


def test_threads_apart_from_what_numactl_bound(read_stage: StageReader) -> None:
    """Below a shell, memory is on node 0 as requested, threads are on node 1, and nothing is local."""
    series = read_stage("requests")["series"]

    assert get_value(series, "asked_node", source="numactl", policy="bind", node="0") == 1
    assert get_value(series, "asked_node", source="numactl", policy="cpus", node="1") == 1
    assert get_value(series, "kind_share_ratio", kind="anon", node="0") > 0.95
    assert get_value(series, "run_share_ratio", node="1") == 1
    assert get_value(series, "local_ratio") < 0.3


def test_the_command_agrees_with_numa_maps_and_numastat(read_stage: StageReader) -> None:
    """The sample is within 2 points of numa_maps, and numastat -p has the same sum."""
    result = read_stage("requests")
    sampled, exact = ({node["node"]: node["share"] for node in result[name]["nodes"]} for name in ("sampled", "exact"))
    total = float(re.findall(r"^Total .* ([\d.]+)$", result["numastat"], re.MULTILINE)[0])

    assert sampled == pytest.approx(exact, abs=0.02)
    assert sum(result["exact"]["memory_bytes"].values()) / MIB == pytest.approx(total, abs=0.5)
    assert result["exact"]["policies_bytes"]["bind:0"] > 40 * MIB
    assert {(wish["policy"], wish["nodes"]) for wish in result["exact"]["asked"]} == {("bind", "0"), ("cpus", "1")}
