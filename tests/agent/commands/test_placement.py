"""`steadytok placement`: numa_maps, the table, and one sentence if there is nothing to show."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement import numa_maps, table
from agent.placement.process_placement import ProcessPlacement, from_numa_maps, from_samples
from agent.placement.query import PlacementError, PlacementQuery
from agent.sampling.plugins import bind_collector
from collectors import Host, Metric, Reading, Sample, process

FIXTURE = Path(__file__).parents[2] / "collectors" / "process" / "root"
PROCESS_LABELS = (("engine", "r1"), ("rank", "0"))
MAPS = """\
55d0c0a00000 default file=/opt/llama/llama-server mapped=40 mapmax=2 N0=40 kernelpagesize_kB=4
7f0000000000 bind:0 anon=512 dirty=512 active=0 N0=500 N1=12 kernelpagesize_kB=4
7f1000000000 interleave:0-1 file=/models/q4\\040big.gguf mapped=300 N0=100 N1=200 kernelpagesize_kB=4
7f2000000000 default file=/anon_hugepage\\040(deleted) huge anon=3 dirty=3 N1=3 kernelpagesize_kB=2048
7f3000000000 default file=/dev/shm/nccl dirty=10 N1=10 kernelpagesize_kB=4
7ffd00000000 default stack anon=8 dirty=8 N0=8 kernelpagesize_kB=4
7ffe00000000 default
"""
KIB = 1024


def _make_samples(nodes: int = 2, *, pages: bool = True) -> list[Sample]:
    """Returns a process with 8 GiB of anonymous memory and 2 GiB of files, 75 % on node 0 and 25 % on the last node."""

    def make(name: str, value: float, **labels: str) -> Sample:
        pairs = tuple(sorted([*PROCESS_LABELS, *labels.items()]))
        return Sample(Metric(f"steadytok_process_{name}", "gauge", "A test."), pairs, value)

    samples = [
        make("info", 1, pid="1211", kind="vllm", command="VLLM::Worker_TP"),
        *(make("memory_bytes", gib * 2.0**30, kind=kind) for kind, gib in (("anon", 8), ("file", 2), ("shmem", 0))),
        make("asked_info", 1, source="VLLM_CPU_OMP_THREADS_BIND", policy="bind", nodes="0", cpus="0-31"),
        make("cgroup_available_bytes", 4 * 2.0**30),
        make("cgroup_max_bytes", 16 * 2.0**30),
        make("cgroup_info", 1, cgroup="/pod/c", limited_by="/pod"),
    ]
    for node in range(nodes):
        share = {0: 0.75, nodes - 1: 0.25}.get(node, 0.0)
        samples += [
            make("threads", 32 if node == 0 else 1, node=str(node)),
            make("threads_bound", 32 if node == 0 else 0, node=str(node)),
            make("run_share_ratio", 1 if node == 0 else 0, node=str(node)),
        ]
        if pages:
            shares = (("node_share", {}), ("kind_share", {"kind": "anon"}), ("kind_share", {"kind": "file"}))
            for name, kind in shares:
                samples.append(make(f"{name}_ratio", share, node=str(node), **kind))
                samples.append(make(f"{name}_error_ratio", 0.00677, node=str(node), **kind))
    if pages:
        samples += [make("local_ratio", 0.75), make("local_error_ratio", 0.00677)]
    return samples


def _parse_placement(samples: list[Sample]) -> ProcessPlacement:
    (placement,) = from_samples(samples)
    return placement


def test_numa_maps_adds_up_by_kind_node_and_policy() -> None:
    """Pages count with their own size, huge ones too; shared memory is no file; a mapping not in RAM adds nothing."""
    maps = numa_maps.parse(MAPS)

    assert maps.sizes == {
        ("file", "0"): 140 * 4 * KIB,
        ("file", "1"): 200 * 4 * KIB,
        ("anon", "0"): 508 * 4 * KIB,
        ("anon", "1"): 12 * 4 * KIB,
        ("hugetlb", "1"): 3 * 2048 * KIB,
        ("shmem", "1"): 10 * 4 * KIB,
    }
    assert maps.policies == {
        "default": (40 + 10 + 8) * 4 * KIB + 3 * 2048 * KIB,
        "bind:0": 512 * 4 * KIB,
        "interleave:0-1": 300 * 4 * KIB,
    }


@given(
    st.text(max_size=200) | st.from_regex(r"[0-9a-f]{8} [a-z]{1,8}( N[0-9]=[0-9]{1,9})? kernelpagesize_kB=[0-9]{1,4}")
)
def test_any_text_gives_sizes_or_a_sentence(text: str) -> None:
    """No text raises anything but a ValueError that says what was expected."""
    try:
        sizes = numa_maps.parse(text).sizes
    except ValueError as error:
        assert "expected lines such as" in str(error)
    else:
        assert all(size >= 0 for size in sizes.values())


def test_the_table_of_two_nodes() -> None:
    """Sizes by node are shares of the memory in RAM; the error holds for 95 of 100 samples."""
    assert list(table.format_table(_parse_placement(_make_samples()), 80)) == [
        "r1 rank 0 (PID 1211, VLLM::Worker_TP, vllm): 10.0 GiB in RAM",
        "  asked         memory bound on node 0 (CPUs 0-31), by VLLM_CPU_OMP_THREADS_BIND",
        "                          node 0          node 1             all",
        "  anonymous              6.0 GiB         2.0 GiB         8.0 GiB",
        "  file                   1.5 GiB       512.0 MiB         2.0 GiB",
        "  share              75.0 % ±1.3     25.0 % ±1.3           100 %",
        "  threads                     32               1              33",
        "    bound here                32               0              32",
        "  work                     100 %             0 %",
        "  local         75.0 % ±1.3 is on the nodes where its threads run",
        "  cgroup        4.0 GiB of 16.0 GiB left, set at /pod",
    ]


def test_eight_nodes_fit_a_terminal() -> None:
    """No line is wider than the terminal, every node occurs once, and the sums are beside the last."""
    lines = list(table.format_table(_parse_placement(_make_samples(8)), 80))
    heads = [line for line in lines if "node 7" in line or "node 0  " in line or "node 4" in line]

    assert max(map(len, lines)) <= 80
    assert re.findall(r"node (\d)\b", " ".join(line for line in lines if line.startswith(" " * 20))) == list("01234567")
    assert [head.endswith("all") for head in heads] == [False] * (len(heads) - 1) + [True]


def test_what_is_not_known_is_no_zero() -> None:
    """Without permission to read pages there are totals and threads, and question marks for the nodes."""
    placement = _parse_placement(_make_samples(pages=False))
    lines = list(table.format_table(placement, 80))

    assert "  anonymous                    ?               ?         8.0 GiB" in lines
    assert "  share                        ?               ?" in lines
    assert not [line for line in lines if line.startswith("  local")]
    assert table.to_json(placement)["nodes"][0]["share"] is None
    assert table.to_json(placement)["nodes"][0]["bytes"]["anon"] is None


def test_without_nodes_there_are_totals() -> None:
    """A kernel without NUMA shows no node; the memory in RAM is still shown."""
    lines = list(table.format_table(_parse_placement(_make_samples(0, pages=False)), 80))

    assert "  anonymous              8.0 GiB" in lines


def test_exact_takes_the_place_of_the_sample() -> None:
    """With numa_maps sizes and shares are exact, without an error, and the policies are shown."""
    placement = from_numa_maps(_parse_placement(_make_samples()), numa_maps.parse(MAPS))
    as_json = table.to_json(placement)

    assert placement.size_on_node("hugetlb", "1") == 3 * 2048 * KIB
    assert placement.shares["", "0"].part == pytest.approx(648 / (870 + 1536))
    assert placement.shares["", "0"].error == 0
    assert placement.local == placement.shares["", "0"]
    assert as_json["policies_bytes"]["bind:0"] == 512 * 4 * KIB
    assert list(table.format_table(placement, 80))[-2].startswith("  policies      default 6.2 MiB, bind:0 2.0 MiB")


def test_the_prediction_grows_with_what_is_in_ram() -> None:
    """The prediction includes a measurement: 16 GiB took 65 ms."""
    least, most = numa_maps.estimate_read_seconds(16 * 2.0**30)

    assert least <= 0.065 <= most
    assert numa_maps.estimate_read_seconds(0) == (0, 0)


def run_placement(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "placement", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, stdin=subprocess.DEVNULL)


@pytest.fixture(name="child")
def _child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_any_process_can_be_looked_at(child: subprocess.Popen[bytes]) -> None:
    """By its pid, as JSON: the nodes' shares add up to one, and their sizes to the total."""
    result = run_placement(child.pid, "--json")
    (row,) = json.loads(result.stdout)

    assert result.returncode == 0, result.stderr
    assert row["pid"] == child.pid
    assert sum(node["share"] for node in row["nodes"]) == pytest.approx(1)
    assert sum(node["bytes"]["anon"] for node in row["nodes"]) == pytest.approx(row["memory_bytes"]["anon"])
    assert row["memory_bytes"]["anon"] > 1 << 20


def test_exact_is_asked_for_first(child: subprocess.Popen[bytes]) -> None:
    """Without a terminal numa_maps is not read unless --yes is given; the cost is printed in both cases."""
    refused = run_placement(child.pid, "--exact")
    accepted = run_placement(child.pid, "--exact", "--yes")

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert re.search(r"holds up its mmap and munmap.* for about [\d.]+ to [\d.]+ ms\.", refused.stderr)
    assert "give --yes" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr
    assert "holds up" in accepted.stderr
    assert re.search(r"^  policies +default ", accepted.stdout, re.MULTILINE)


def test_watch_goes_on_until_it_is_ended(child: subprocess.Popen[bytes]) -> None:
    """Each repetition is a line of JSON; Ctrl-C ends it with status 0 and without a traceback."""
    command = [sys.executable, "-m", "agent", "placement", str(child.pid), "--watch", "--every", "1", "--json"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as watching:
        assert watching.stdout is not None
        outputs = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=50)

    assert [output[0]["pid"] for output in outputs] == [child.pid] * 2
    assert watching.returncode == 0
    assert errors == ""


def test_watch_says_when_the_process_has_ended(child: subprocess.Popen[bytes]) -> None:
    """A process that ends while it is watched ends the watch with one sentence."""
    command = [sys.executable, "-m", "agent", "placement", str(child.pid), "--watch", "--every", "1", "--json"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        child.kill()
        child.wait()
        _, errors = watching.communicate(timeout=50)

    assert watching.returncode == 1
    assert errors == f"steadytok: there is no process {child.pid}\n"


def test_exact_and_watch_do_not_go_together() -> None:
    """A read that holds a process up is not repeated every few seconds."""
    result = run_placement("1", "--exact", "--watch", "--yes")

    assert result.returncode == 2
    assert "cannot be combined with --watch" in result.stderr


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("Name:\tpython\nState:\tZ (zombie)\n", "process 7 (python) has ended and waits for its parent"),
        ("Name:\tkworker/0:1\nState:\tI (idle)\n", "process 7 (kworker/0:1) is a thread of the kernel"),
        ("Name:\tpython\nState:\tS\nTgid:\t5\nVmSize:\t1 kB\n", "7 (python) is a thread of process 5"),
        ("Name:\tpython\nState:\tS\nTgid:\t7\nVmSize:\t1 kB\n", "process 7: does not exist, has ended"),
        (None, "there is no process 7"),
    ],
)
def test_what_has_no_memory_is_one_sentence(tmp_path: Path, status: str | None, sentence: str) -> None:
    """Zombies, kernel threads, ended processes and processes that end meanwhile have different sentences."""
    if status is not None:
        (tmp_path / "proc" / "7").mkdir(parents=True)
        (tmp_path / "proc" / "7" / "status").write_text(status)
    result = run_placement("7", "--root", tmp_path)

    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"steadytok: {sentence}")
    assert result.stderr.count("\n") == 1


def test_a_process_that_vanishes_while_it_is_asked_is_one_sentence(tmp_path: Path) -> None:
    """A process whose files vanish during the read has ended; no other reason is guessed."""
    collector = bind_collector(process, "process", interval=None, deadline=None, config=None)
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "status").write_text("Name:\tpython\nState:\tS\nVmSize:\t1 kB\n")

    def vanish(host: Host, config: object) -> Iterator[Reading]:
        shutil.rmtree(tmp_path / "proc" / "7")
        return process.collect(host, config)  # type: ignore[arg-type]  # the module's own Config

    module = SimpleNamespace(**vars(process) | {"collect": vanish})

    with pytest.raises(PlacementError, match=r"^process 7 ended during the query$"):
        PlacementQuery(collector, module, str(tmp_path), "7").read()


def test_engines_are_found_by_name() -> None:
    """Without a name all engines are shown, with one its ranks alone; an unknown name lists the engines."""
    every, named, unknown = (run_placement(*name, "--root", FIXTURE) for name in ([], ["vllm"], ["r2"]))

    assert "rank 0 (PID 1300, llama-server, llama.cpp): 49.7 GiB in RAM" in every.stdout
    assert re.findall(r"^vllm rank (\d)", named.stdout, re.MULTILINE) == ["0", "1"]
    assert "llama" not in named.stdout
    assert unknown.returncode == 1
    assert re.fullmatch(r"steadytok: no engine is named 'r2'; engines here: .*vllm\n", unknown.stderr)


def test_no_engine_is_a_sentence(tmp_path: Path) -> None:
    """On a host without an engine the sentence says how to name one."""
    result = run_placement("--root", tmp_path)

    assert result.returncode == 1
    assert result.stderr.startswith("steadytok: no engine is running here")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_permission_the_rest_is_shown(child: subprocess.Popen[bytes]) -> None:
    """For another user's process: totals and threads, no node's share, and one sentence with a hint."""
    code = (
        "import os, sys; from agent.__main__ import run; import agent.commands.placement, agent.config.loader; "
        "import numpy, re2; "
        "import collectors._process.move_pages; from agent.sampling import plugins; plugins.load_collectors(); "
        "os.setgid(65534); os.setuid(65534); "
        f"sys.argv = ['steadytok', 'placement', '{child.pid}']; run()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)

    assert result.returncode == 1
    assert re.search(r"^  anonymous +\? .*MiB$", result.stdout, re.MULTILINE)
    assert "(needs CAP_SYS_PTRACE, or the process's own user)" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_looks_are_spaced() -> None:
    """Repetitions below one second are refused: reading would cost more than it shows."""
    done = run_placement("1", "--watch", "--every", "0.01")

    assert done.returncode == 2
    assert "0.01" in done.stderr
