"""CPU time by node: CPUs that come and go, cut lines, numbers that fall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, stat

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

NODE = "sys/devices/system/node"
TAIL = "intr 5 0 0\nctxt 7\nbtime 1700000000\nprocesses 9\nprocs_running 2\nprocs_blocked 1\nsoftirq 3 0\n"


def format_stat(user: Mapping[int, int]) -> str:
    """Formats /proc/stat with these CPUs and the user time of each in 1/100 s."""
    return "cpu  0 0 0 0 0 0 0 0 0 0\n" + "".join(f"cpu{c} {t} 0 0 {t} 0 0 0 0 0 0\n" for c, t in user.items()) + TAIL


def make_nodes(*lists: str, online: str) -> dict[str, str]:
    """The files of the nodes 0, 1, … with these CPUs; an empty list is a memory-only node."""
    with_cpus = ",".join(str(node) for node, text in enumerate(lists) if text)
    return {
        **{f"{NODE}/node{node}/cpulist": f"{text}\n" for node, text in enumerate(lists)},
        f"{NODE}/has_cpu": f"{with_cpus}\n",
        "sys/devices/system/cpu/online": f"{online}\n",
    }


def get_user_seconds(values: Mapping[str, float], node: int) -> float | None:
    """Returns the node's user seconds."""
    return values.get(f'steadytok_stat_cpu_seconds_total{{mode="user",node="{node}"}}')


def get_online_cpus(values: Mapping[str, float], node: int) -> float | None:
    """Returns the node's number of online CPUs."""
    return values.get(f'steadytok_stat_cpus_online{{node="{node}"}}')


def test_time_is_summed_over_the_cpus_of_a_node(machine: Machine, series: Series) -> None:
    """The sum is right also where the nodes' CPUs alternate."""
    host = machine(
        {"proc/stat": format_stat({0: 100, 1: 200, 2: 400, 3: 800}), **make_nodes("0,2", "1,3", online="0-3")}
    )
    values = series(stat.collect(host))

    assert (get_user_seconds(values, 0), get_user_seconds(values, 1)) == (5.0, 10.0)
    assert (get_online_cpus(values, 0), get_online_cpus(values, 1)) == (2, 2)


def test_a_memory_only_node_has_no_cpus_and_no_time(machine: Machine, series: Series) -> None:
    """Its empty list counts because has_cpu confirms it."""
    host = machine({"proc/stat": format_stat({0: 100}), **make_nodes("0", "", online="0")})
    values = series(stat.collect(host))

    assert (get_online_cpus(values, 1), get_user_seconds(values, 1)) == (0, None)
    assert host.take_notes() == []


def test_a_list_that_is_empty_by_accident_is_missing(machine: Machine, series: Series) -> None:
    """An empty list of a node that has CPUs is a failed read, and not zero CPUs."""
    host = machine(
        {
            "proc/stat": format_stat({0: 100, 1: 300}),
            **make_nodes("0", "1", online="0-1"),
            f"{NODE}/node0/cpulist": "\n",
        }
    )
    values = series(stat.collect(host))

    assert (get_online_cpus(values, 0), get_user_seconds(values, 0)) == (None, None)
    assert (get_online_cpus(values, 1), get_user_seconds(values, 1)) == (1, 3.0)
    assert [note.path for note in host.take_notes()] == [f"{NODE}/node0/cpulist"]


def test_a_kernel_without_nodes_has_one(machine: Machine, series: Series) -> None:
    """Without NUMA in the kernel all CPUs are on node 0."""
    values = series(stat.collect(machine({"proc/stat": format_stat({0: 100, 1: 200})})))

    assert (get_user_seconds(values, 0), get_online_cpus(values, 0)) == (3.0, 2)


def test_a_cut_line_is_missed_without_nodes_too(machine: Machine, series: Series) -> None:
    """The list of online CPUs defines which CPUs the sum needs."""
    host = machine({"proc/stat": format_stat({0: 100}), "sys/devices/system/cpu/online": "0-1\n"})
    values = series(stat.collect(host))

    assert (get_user_seconds(values, 0), get_online_cpus(values, 0)) == (None, None)


def test_an_offline_cpu_does_not_make_the_counter_fall(machine: Machine, series: Series) -> None:
    """A fall would give a rate of years per second; the counter continues from its last value."""
    host = machine({"proc/stat": format_stat({0: 100, 1: 5000}), **make_nodes("0-1", online="0-1")})
    before = series(stat.collect(host))
    machine({"proc/stat": format_stat({0: 110}), **make_nodes("0", online="0")})
    without = series(stat.collect(host))
    machine({"proc/stat": format_stat({0: 150})})
    later = series(stat.collect(host))
    machine({"proc/stat": format_stat({0: 160, 1: 5010}), **make_nodes("0-1", online="0-1")})
    back = series(stat.collect(host))
    machine({"proc/stat": format_stat({0: 170, 1: 5020})})
    last = series(stat.collect(host))

    assert [get_user_seconds(values, 0) for values in (before, without, later, back, last)] == [
        51.0,
        51.0,
        51.4,
        51.4,
        51.6,
    ]
    assert [get_online_cpus(values, 0) for values in (before, without, later, back)] == [2, 1, 1, 2]


def test_a_node_list_that_still_names_an_offline_cpu_is_corrected(machine: Machine, series: Series) -> None:
    """Some kernels list all CPUs of a node; offline ones are ignored."""
    host = machine({"proc/stat": format_stat({0: 100}), **make_nodes("0-1", online="0")})
    values = series(stat.collect(host))

    assert (get_user_seconds(values, 0), get_online_cpus(values, 0)) == (1.0, 1)


@pytest.mark.parametrize(
    "line", ["cpu1 500 0 0 500 0 0 0", "cpu1 x 0 0 0 0 0 0 0 0 0", "cpu1", "cpu1 -5 0 0 0 0 0 0 0 0 0"]
)
def test_a_cut_line_costs_its_node_one_pass(machine: Machine, series: Series, line: str) -> None:
    """A sum without one of its CPUs would be too small: it is missing, noted, and back with the line."""
    files = {"proc/stat": format_stat({0: 100, 1: 500, 2: 900}), **make_nodes("0-1", "2", online="0-2")}
    host = machine(files)
    first = series(stat.collect(host))
    machine({"proc/stat": files["proc/stat"].replace("cpu1 500 0 0 500 0 0 0 0 0 0", line)})
    cut = series(stat.collect(host))
    noted = len(host.take_notes())
    machine(files)
    again = series(stat.collect(host))

    assert (get_user_seconds(cut, 0), get_online_cpus(cut, 0), get_user_seconds(cut, 1)) == (None, None, 9.0)
    assert noted == 1
    assert again == first


def test_a_mode_that_goes_back_stands_still(machine: Machine, series: Series) -> None:
    """The kernel's iowait and idle may fall a little; the counter waits until they pass it again."""
    host = machine({"proc/stat": format_stat({0: 1000}), **make_nodes("0", online="0")})
    values = [series(stat.collect(host))]
    for ticks in (990, 1005):
        machine({"proc/stat": format_stat({0: ticks})})
        values.append(series(stat.collect(host)))

    assert [get_user_seconds(one, 0) for one in values] == [10.0, 10.0, 10.05]


def test_newer_kernels_may_add_modes(machine: Machine, series: Series) -> None:
    """An eleventh number is ignored."""
    host = machine({"proc/stat": f"cpu  1 1\ncpu0 100 0 0 0 0 0 0 0 0 0 77\n{TAIL}"})

    assert get_user_seconds(series(stat.collect(host)), 0) == 1.0


def test_one_bad_number_hides_no_other(machine: Machine, series: Series) -> None:
    """The host's own numbers are parsed line by line."""
    text = format_stat({0: 100}).replace("ctxt 7", "ctxt seven")
    host = machine({"proc/stat": text, **make_nodes("0", online="0")})
    values = series(stat.collect(host))

    assert "steadytok_stat_context_switches_total" not in values
    assert values["steadytok_stat_forks_total"] == 9
    assert len(host.take_notes()) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the files are written anew for each example
@given(st.lists(st.dictionaries(st.integers(0, 3), st.integers(0, 10**6)), min_size=2, max_size=6))
def test_a_counter_never_falls(machine: Machine, series: Series, passes: list[dict[int, int]]) -> None:
    """For any changes of CPUs and numbers, no counter of a node falls."""
    host = Host(machine({}).root)  # its own memory for each example
    highest: dict[int, float] = {}
    for user_ticks in passes:
        lists = [",".join(str(cpu) for cpu in sorted(user_ticks) if cpu // 2 == node) for node in (0, 1)]
        machine(
            {
                "proc/stat": format_stat(dict(sorted(user_ticks.items()))),
                **make_nodes(*lists, online=",".join(map(str, sorted(user_ticks)))),
            }
        )
        values = series(stat.collect(host))
        for node in (0, 1):
            now = get_user_seconds(values, node)

            assert now is None or now >= highest.get(node, 0.0)
            highest[node] = now if now is not None else highest.get(node, 0.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is written anew for each example
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.from_regex(r"(cpu\d?( \d{1,25}){9,12}\n){1,4}"))
def test_any_text_gives_numbers_or_nothing(machine: Machine, text: str) -> None:
    """No text raises."""
    for reading in stat.collect(Host(machine({"proc/stat": text}).root)):
        assert reading is None or reading.value >= 0
