"""Placement requested by options, variables, numactl and cpusets; and variables that must not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading
from collectors._host.cpulist import format_cpulist, parse_cpulist
from collectors._process import placement_request
from collectors._process.engine_processes import EngineProcess
from collectors._process.placement_options import (
    VARIABLES,
    PlacementOption,
    parse_numactl,
    parse_options,
    parse_variables,
)

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

TOPOLOGY = {0: frozenset(range(32)), 1: frozenset(range(32, 64))}
CPUS_BY_NODE = {str(node): cpus for node, cpus in TOPOLOGY.items()}
STAT = "{pid} (vllm) S {parent} " + " ".join(["0"] * 48)
BIND = "VLLM_CPU_OMP_THREADS_BIND"


def _parse_set(text: str) -> frozenset[int]:
    return parse_cpulist(text) or frozenset()


def _make_process_files(pid: int, parent: int, *words: str, **environ: str) -> dict[str, str]:
    return {
        f"proc/{pid}/cmdline": "".join(f"{word}\0" for word in words),
        f"proc/{pid}/environ": "".join(f"{name}={value}\0" for name, value in environ.items()),
        f"proc/{pid}/stat": STAT.format(pid=pid, parent=parent),
        f"proc/{pid}/status": "Name:\tvllm\nCpus_allowed_list:\t0-63\nMems_allowed_list:\t0-1\n",
    }


NODES = {"sys/devices/system/node/has_memory": "0-1\n"}


def _make_engine_process(kind: str = "vllm", rank: str = "0", pid: int = 7) -> EngineProcess:
    return EngineProcess("r1", rank, kind, pid, 0, "vllm")


@pytest.mark.parametrize(
    ("words", "rank", "expected"),
    [
        (["llama-server", "--numa", "distribute"], "0", [PlacementOption("--numa", "distribute", _parse_set("0-1"))]),
        (["llama-server", "--numa=isolate"], "0", [PlacementOption("--numa", "isolate")]),
        (["llama-server", "--numa", "numactl", "-c", "1"], "0", [PlacementOption("--numa", "inherit")]),
        (["python", "-m", "engine", "--numa", "bind:1"], "0", [PlacementOption("--numa", "bind", _parse_set("1"))]),
        (
            ["python", "-m", "engine", "--numa", "interleave"],
            "0",
            [PlacementOption("--numa", "interleave", _parse_set("0-1"))],
        ),
        (["python", "-m", "engine", "--numa", "bind:9"], "0", [PlacementOption("--numa", "bind")]),
        (
            ["vllm", "--numa-bind-nodes", "1", "0", "--port", "1"],
            "1",
            [PlacementOption("--numa-bind-nodes", "bind", _parse_set("0"))],
        ),
        (["sglang", "--numa-node", "0", "1"], "1", [PlacementOption("--numa-node", "bind", _parse_set("1"))]),
        (["sglang", "--numa-node", "0"], "1", []),
        (["kt", "--kt-numa-nodes", "0", "1"], "0", [PlacementOption("--kt-numa-nodes", "shard", _parse_set("0-1"))]),
        (["kt", "--kt-threadpool-count=1"], "0", [PlacementOption("--kt-threadpool-count", "shard", _parse_set("0"))]),
        (
            ["kt", "--kt-threadpool-count", "2", "--kt-numa-nodes", "1"],
            "0",
            [PlacementOption("--kt-numa-nodes", "shard", {1})],
        ),
        (["llama-server", "--numa"], "0", []),
        (["llama-server", "--numa", "sideways"], "0", []),
        (["llama-server", "--numaish", "bind:0"], "0", []),
        ([], "0", []),
    ],
)
def test_options_say_what_was_asked(words: list[str], rank: str, expected: list[PlacementOption]) -> None:
    """Each engine's options are parsed for the worker's own rank; malformed options give no request."""
    assert list(parse_options(words, rank, TOPOLOGY)) == expected


@pytest.mark.parametrize(
    ("kind", "rank", "name", "value", "expected"),
    [
        ("vllm", "0", BIND, "0-31|32-63", [PlacementOption(BIND, "bind", _parse_set("0"), _parse_set("0-31"))]),
        ("vllm", "1", BIND, "0-31|32-63", [PlacementOption(BIND, "bind", _parse_set("1"), _parse_set("32-63"))]),
        ("vllm", "2", BIND, "0-31|32-63", [PlacementOption(BIND, "bind")]),
        ("vllm", "PP1_TP0", BIND, "0-31|32-63", [PlacementOption(BIND, "bind")]),
        ("vllm", "0", BIND, "30-33", [PlacementOption(BIND, "bind", _parse_set("0-1"), _parse_set("30-33"))]),
        ("vllm", "0", BIND, "auto", [PlacementOption(BIND, "auto")]),
        ("vllm", "0", BIND, "nobind", [PlacementOption(BIND, "nobind")]),
        (
            "vllm",
            "0",
            "CPU_VISIBLE_MEMORY_NODES",
            "1",
            [PlacementOption("CPU_VISIBLE_MEMORY_NODES", "bind", _parse_set("1"))],
        ),
        ("llama.cpp", "0", BIND, "0-31", []),
        (
            "sglang",
            "0",
            VARIABLES[1],
            "0-3,40",
            [PlacementOption(VARIABLES[1], "bind", _parse_set("0-1"), _parse_set("0-3,40"))],
        ),
        ("ktransformers", "0", "USE_NUMA", "1", [PlacementOption("USE_NUMA", "replicate", _parse_set("0-1"))]),
        ("ktransformers", "0", "USE_NUMA", "0", []),
        ("vllm", "0", "USE_NUMA", "1", []),
        (
            "ollama",
            "0",
            "LLAMA_ARG_NUMA",
            "distribute",
            [PlacementOption("LLAMA_ARG_NUMA", "distribute", _parse_set("0-1"))],
        ),
    ],
)
def test_variables_say_what_was_asked(
    kind: str, rank: str, name: str, value: str, expected: list[PlacementOption]
) -> None:
    """A variable counts for the engines that read it, and lists of CPUs become nodes."""
    assert list(parse_variables({name: value}, kind, rank, TOPOLOGY)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "numactl -m 0 -N 0 vllm serve",
            [PlacementOption("numactl", "bind", _parse_set("0")), PlacementOption("numactl", "cpus", _parse_set("0"))],
        ),
        ("cd /srv; exec numactl --membind=1 vllm serve && echo", [PlacementOption("numactl", "bind", _parse_set("1"))]),
        ("/usr/bin/numactl -i all vllm", [PlacementOption("numactl", "interleave", _parse_set("0-1"))]),
        ("numactl --interl=0,1 vllm", [PlacementOption("numactl", "interleave", _parse_set("0-1"))]),
        ("numactl -m '!0' vllm -m 0", [PlacementOption("numactl", "bind", _parse_set("1"))]),
        ("numactl -C 40-41 vllm", [PlacementOption("numactl", "cpus", _parse_set("1"), _parse_set("40-41"))]),
        ("numactl -p1 vllm", [PlacementOption("numactl", "preferred", _parse_set("1"))]),
        ("numactl -l vllm", [PlacementOption("numactl", "local")]),
        ("numactl -m +0 vllm", [PlacementOption("numactl", "bind")]),
        ("numactl -m 0 a & numactl -m 1 b", []),
        ("numactl --nonsense vllm", []),
        ("numactl -m '0", []),
        ("vllm serve", []),
    ],
)
def test_numactl_above_says_what_was_asked(text: str, expected: list[PlacementOption]) -> None:
    """A shell above the engine still has numactl's words; two numactls in it give no request."""
    assert list(parse_numactl(["/bin/sh", "-c", text], TOPOLOGY)) == expected
    assert list(parse_numactl(["bash", "-lc", text, "argv0", "argument"], TOPOLOGY)) == expected


def test_only_a_shell_is_believed() -> None:
    """An editor with the same words in its command line requests nothing."""
    assert list(parse_numactl(["vim", "-c", "numactl -m 0 vllm"], TOPOLOGY)) == []
    assert list(parse_numactl(["bash", "start.sh"], TOPOLOGY)) == []


def test_what_is_above_the_engine_counts(machine: Machine, series: Series) -> None:
    """A titled worker takes options from its parent's command line, and numactl's from a shell above."""
    shell = _make_process_files(5, 1, "sh", "-c", "numactl -N 1 vllm serve m; sleep 1")
    tree = (
        shell
        | _make_process_files(6, 5, "vllm", "serve", "m", "--numa-bind-nodes", "0")
        | _make_process_files(7, 6, "VLLM::Worker_TP0")
    )

    assert series(
        placement_request.collect_requests(
            machine(NODES | tree), _make_engine_process(), CPUS_BY_NODE, {"engine": "r1", "rank": "0"}
        )
    ) == {
        'steadytok_process_asked_info{engine="r1",nodes="0",policy="bind",rank="0",source="--numa-bind-nodes"}': 1,
        'steadytok_process_asked_node{engine="r1",node="0",policy="bind",rank="0",source="--numa-bind-nodes"}': 1,
        'steadytok_process_asked_info{engine="r1",nodes="1",policy="cpus",rank="0",source="numactl"}': 1,
        'steadytok_process_asked_node{engine="r1",node="1",policy="cpus",rank="0",source="numactl"}': 1,
    }


def test_the_nearest_counts(machine: Machine) -> None:
    """A replica bound to a node, below an engine started with `replicate`, has the request `bind`."""
    tree = _make_process_files(6, 1, "python", "-m", "engine", "--numa", "replicate")
    tree |= _make_process_files(7, 6, "python", "-m", "engine", "--numa", "bind:1")

    assert placement_request.find_requests(machine(NODES | tree), _make_engine_process("reference"), CPUS_BY_NODE) == [
        PlacementOption("--numa", "bind", frozenset({1}))
    ]


def test_a_cpuset_that_leaves_out_memory_is_a_wish(machine: Machine) -> None:
    """docker --cpuset-mems shows in Mems_allowed; with all nodes allowed there is no request."""
    files = NODES | _make_process_files(7, 1, "vllm")

    assert placement_request.find_requests(machine(files), _make_engine_process(), CPUS_BY_NODE) == []

    status = "Cpus_allowed_list:\t0-63\nMems_allowed_list:\t1\n"

    assert placement_request.find_requests(
        machine({"proc/7/status": status}), _make_engine_process(), CPUS_BY_NODE
    ) == [PlacementOption("cpuset", "bind", frozenset({1}))]


def test_no_other_variable_leaves_the_process(machine: Machine, series: Series) -> None:
    """Keys and passwords in the environment appear in no label and no note."""
    process = _make_process_files(7, 1, "vllm", HF_TOKEN="hunter2", USE_NUMA="hunter3", **{BIND: "hunter4"})
    host = machine(NODES | process)
    values = series(
        placement_request.collect_requests(host, _make_engine_process(), CPUS_BY_NODE, {"engine": "r1", "rank": "0"})
    )

    assert values.keys() == {f'steadytok_process_asked_info{{engine="r1",policy="bind",rank="0",source="{BIND}"}}'}
    assert "hunter" not in f"{values}{host.take_notes()}"


def test_a_list_that_is_too_long_is_no_label(machine: Machine, series: Series) -> None:
    """A list that is too long is left out of the label, since a cut list would be a different list."""
    cpulist = ",".join(str(cpu) for cpu in range(1, 64, 2))
    values = series(
        placement_request.collect_requests(
            machine(NODES | _make_process_files(7, 1, "vllm", **{BIND: cpulist})),
            _make_engine_process(),
            CPUS_BY_NODE,
            {"rank": "0"},
        )
    )

    assert [name for name in values if "cpus=" in name] == [
        f'steadytok_process_asked_info{{cpus="{cpulist}",nodes="0-1",policy="bind",rank="0",source="{BIND}"}}'
    ]

    cpulist = ",".join(str(cpu) for cpu in range(1, 200, 2))
    values = series(
        placement_request.collect_requests(
            machine(_make_process_files(7, 1, "vllm", **{BIND: cpulist})),
            _make_engine_process(),
            CPUS_BY_NODE,
            {"rank": "0"},
        )
    )

    assert not [name for name in values if "cpus=" in name]


def test_a_loop_of_parents_ends(machine: Machine) -> None:
    """A reused pid can make two processes each other's parents; the search still ends."""
    tree = _make_process_files(7, 6, "vllm") | _make_process_files(6, 7, "vllm")

    assert placement_request.find_requests(machine(NODES | tree), _make_engine_process(), CPUS_BY_NODE) == []


@given(st.frozensets(st.integers(0, 500), min_size=1))
def test_a_list_reads_back(numbers: frozenset[int]) -> None:
    """A formatted list parses to the same numbers."""
    assert parse_cpulist(format_cpulist(numbers)) == numbers


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["sh", "-c", "--numa", "bind:", "=", "numactl -m", "0", "-i", "'", "&&", "--kt-numa-nodes"])
    )
)
def test_no_command_line_raises(words: list[str]) -> None:
    """For any command line, a request names existing nodes or none."""
    for option in (
        *parse_options(words, "0", TOPOLOGY),
        *parse_numactl(words, TOPOLOGY),
        *parse_numactl(["sh", "-c", " ".join(words)], TOPOLOGY),
    ):
        assert option.nodes <= TOPOLOGY.keys()
