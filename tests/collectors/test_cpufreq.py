"""The traps of cpufreq: reads that interrupt, reads that never end, CPUs that are offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from collectors import Host, Reading, cpufreq

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
OLD, NEW = "5.10.0-21-amd64", "6.8.0-45-generic"


def _make_policy(number: int, kilohertz: str = "3000000", driver: str = "intel_pstate") -> dict[str, str]:
    folder = f"{CPU}/cpufreq/policy{number}"
    return {
        f"{folder}/scaling_cur_freq": kilohertz,
        f"{folder}/cpuinfo_max_freq": "3800000",
        f"{folder}/scaling_max_freq": "3800000",
        f"{folder}/scaling_driver": driver,
        f"{folder}/scaling_governor": "performance",
        f"{folder}/related_cpus": str(number),
    }


def _make_two_nodes(
    cpus_per_node: int, kernel: str, driver: str = "intel_pstate", isolated: str = ""
) -> dict[str, str]:
    files = {
        "proc/sys/kernel/osrelease": kernel,
        f"{CPU}/online": f"0-{2 * cpus_per_node - 1}",
        f"{CPU}/isolated": isolated,
        f"{NODE}/has_cpu": "0-1",
        f"{NODE}/node0/cpulist": f"0-{cpus_per_node - 1}",
        f"{NODE}/node1/cpulist": f"{cpus_per_node}-{2 * cpus_per_node - 1}",
    }
    return files | {
        path: text for cpu in range(2 * cpus_per_node) for path, text in _make_policy(cpu, driver=driver).items()
    }


def _select_frequencies(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith("steadytok_cpufreq_frequency_hertz")}


def test_the_file_that_interrupts_is_never_opened(machine: Machine, series: Series) -> None:
    """cpuinfo_cur_freq is never opened: here it is a FIFO, and opening it would block for ever."""
    host = machine(_make_two_nodes(1, NEW))
    os.mkfifo(host.path(f"{CPU}/cpufreq/policy0/cpuinfo_cur_freq"))

    assert len(_select_frequencies(series(cpufreq.collect(host)))) == 2


def test_unknown_is_missing_and_its_neighbours_stay(machine: Machine, series: Series) -> None:
    """`<unknown>` is the kernel's word for no reading; node_exporter #1710 lost every CPU to it."""
    host = machine(_make_two_nodes(1, NEW) | {f"{CPU}/cpufreq/policy0/scaling_cur_freq": "<unknown>"})

    assert _select_frequencies(series(cpufreq.collect(host))) == {
        'steadytok_cpufreq_frequency_hertz{node="1",policy="1"}': 3e9
    }
    assert [note.path for note in host.take_notes()] == [f"{CPU}/cpufreq/policy0/scaling_cur_freq"]


def test_old_kernels_are_read_two_cpus_of_each_node_at_a_time(machine: Machine, series: Series) -> None:
    """Where a read costs an interrupt and 10 ms, a pass reads two CPUs per node, and five passes all ten."""
    host = machine(_make_two_nodes(10, OLD))
    counts = [len(_select_frequencies(series(cpufreq.collect(host)))) for _ in range(6)]

    assert counts == [4, 8, 12, 16, 20, 20]


def test_in_rotation_no_value_is_older_than_one_round(machine: Machine, series: Series) -> None:
    """After one round of passes no older value remains."""
    host = machine(_make_two_nodes(10, OLD))
    for _ in range(7):
        list(cpufreq.collect(host))
    machine({f"{CPU}/cpufreq/policy{cpu}/scaling_cur_freq": "1200000" for cpu in range(20)})
    old = []
    for _ in range(5):
        values = _select_frequencies(series(cpufreq.collect(host))).values()
        old.append(sum(value == 3e9 for value in values))

    assert old == [16, 12, 8, 4, 0]


def test_the_round_of_a_large_node_stays_short(machine: Machine, series: Series) -> None:
    """With 64 CPUs a node a pass reads more than two, so that a round has at most 24 passes."""
    host = machine(_make_two_nodes(64, OLD))
    for _ in range(24):
        values = _select_frequencies(series(cpufreq.collect(host)))

    assert len(values) == 128


def test_a_failed_read_in_rotation_ends_the_old_value(machine: Machine, series: Series) -> None:
    """A policy that does not answer at its turn is missing, and its old value is dropped."""
    host = machine(_make_two_nodes(1, OLD))
    list(cpufreq.collect(host))
    machine({f"{CPU}/cpufreq/policy1/scaling_cur_freq": ""})

    assert list(_select_frequencies(series(cpufreq.collect(host)))) == [
        'steadytok_cpufreq_frequency_hertz{node="0",policy="0"}'
    ]


@pytest.mark.parametrize(
    ("kernel", "driver", "expected"),
    [
        (OLD, "intel_pstate", 2),
        (OLD, "acpi-cpufreq", 2),
        ("4.12.14-122-default", "acpi-cpufreq", 4),
        ("5.18.0", "intel_pstate", 4),
        (NEW, "amd-pstate-epp", 4),
        (NEW, "cppc_cpufreq", 2),
        (OLD, "scmi-cpufreq", 4),
    ],
)
def test_isolated_cpus_are_left_alone_where_a_read_interrupts(
    machine: Machine, series: Series, kernel: str, driver: str, expected: int
) -> None:
    """Isolated CPUs are skipped on x86 from 4.13 to 5.17, and under cppc_cpufreq; elsewhere they are read."""
    host = machine(_make_two_nodes(2, kernel, driver, isolated="1,3"))

    assert len(_select_frequencies(series(cpufreq.collect(host)))) == expected


def test_an_offline_policy_is_no_fault(machine: Machine, series: Series) -> None:
    """A policy without an online CPU is skipped without a note, and returns with its CPU."""
    host = machine(_make_two_nodes(2, NEW) | {f"{CPU}/online": "0-2"})

    assert len(_select_frequencies(series(cpufreq.collect(host)))) == 3
    assert host.take_notes() == []

    machine({f"{CPU}/online": "0-3"})

    assert len(_select_frequencies(series(cpufreq.collect(host)))) == 4


def test_a_policy_lives_while_any_of_its_cpus_does(machine: Machine, series: Series) -> None:
    """The CPU in a policy's name may be offline while others of the policy run."""
    host = machine(_make_two_nodes(1, NEW) | {f"{CPU}/cpufreq/policy0/related_cpus": "0 2", f"{CPU}/online": "0-2"})
    list(cpufreq.collect(host))
    machine({f"{CPU}/online": "1-2"})

    assert len(_select_frequencies(series(cpufreq.collect(host)))) == 2


def test_a_new_governor_is_seen_within_six_passes(machine: Machine, series: Series) -> None:
    """Settings are read in turns, each policy's in every sixth pass."""
    host = machine(_make_two_nodes(4, NEW))
    list(cpufreq.collect(host))
    machine({f"{CPU}/cpufreq/policy{cpu}/scaling_governor": "powersave" for cpu in range(8)})
    for _ in range(6):
        values = series(cpufreq.collect(host))

    assert values['steadytok_cpufreq_policies{driver="intel_pstate",governor="powersave"}'] == 8
    assert 'steadytok_cpufreq_policies{driver="intel_pstate",governor="performance"}' not in values


def test_without_numa_there_is_no_node(machine: Machine, series: Series) -> None:
    """A kernel without NUMA shows no nodes; the frequency is still read."""
    host = machine(_make_policy(0))

    assert _select_frequencies(series(cpufreq.collect(host))) == {'steadytok_cpufreq_frequency_hertz{policy="0"}': 3e9}


def test_each_policy_is_read_once_not_each_cpu(machine: Machine, series: Series, tmp_path: Path) -> None:
    """Eight CPUs under one policy have one frequency."""
    host = machine(_make_policy(0) | {f"{CPU}/cpufreq/policy0/related_cpus": "0 1 2 3 4 5 6 7", f"{CPU}/online": "0-7"})
    for cpu in range(8):
        Path(host.path(f"{CPU}/cpu{cpu}")).mkdir()
        Path(host.path(f"{CPU}/cpu{cpu}/cpufreq")).symlink_to("../cpufreq/policy0")

    assert len(_select_frequencies(series(cpufreq.collect(host)))) == 1
