"""Memory traffic: words instead of numbers, values that fall, domains and nodes, reconfigured events."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, resctrl

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

ROOT = "sys/fs/resctrl"
INFO = {f"{ROOT}/info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n"}
TOTAL, LOCAL, REMOTE = (f"steadytok_resctrl_mbm_{word}bytes_total" for word in ("", "local_", "remote_"))


def _make_domain(number: int, total: int | str, local: int | str, group: str = "") -> dict[str, str]:
    folder = f"{ROOT}/{group}mon_data/mon_L3_{number:02}"
    return {f"{folder}/mbm_total_bytes": f"{total}\n", f"{folder}/mbm_local_bytes": f"{local}\n"}


def _make_caches(*caches: tuple[int, str]) -> dict[str, str]:
    """The files of the first CPU of each L3: (id, CPUs)."""
    files = {}
    for number, cpus in caches:
        folder = f"sys/devices/system/cpu/cpu{cpus.split('-')[0]}/cache"
        files |= {f"{folder}/index{level - 1}/level": f"{level}\n" for level in (2, 3)}
        files |= {f"{folder}/index2/id": f"{number}\n", f"{folder}/index2/shared_cpu_list": f"{cpus}\n"}
    return files


def _make_nodes(*lists: str) -> dict[str, str]:
    files = {f"sys/devices/system/node/node{node}/cpulist": f"{cpus}\n" for node, cpus in enumerate(lists)}
    return files | {"sys/devices/system/node/has_cpu": f"0-{len(lists) - 1}\n"}


def test_it_is_not_mounted_by_looking(machine: Machine) -> None:
    """The empty folder of an unmounted resctrl gives no readings and no note, and stays empty."""
    host = machine({})
    folder = Path(host.path(ROOT))
    folder.mkdir(parents=True)

    assert list(resctrl.collect(host)) == []
    assert host.take_notes() == []
    assert list(folder.iterdir()) == []


def test_allocation_without_monitoring_is_silent(machine: Machine) -> None:
    """A processor that only partitions its cache has info/L3 and no info/L3_MON."""
    host = machine({f"{ROOT}/info/L3/cbm_mask": "fffff\n", f"{ROOT}/schemata": "L3:0=fffff\n"})

    assert list(resctrl.collect(host)) == []
    assert host.take_notes() == []


@pytest.mark.parametrize("word", ["Unavailable", "Unassigned", "Error"])
def test_a_word_is_missing_and_hides_no_other_domain(machine: Machine, series: Series, word: str) -> None:
    """A word instead of a number is missing, with a note; values that need it are missing too."""
    host = machine(INFO | _make_domain(0, word, 5) | _make_domain(1, 70, 50))

    assert series(resctrl.collect(host)) == {
        f'{LOCAL}{{domain="0"}}': 5,
        f'{TOTAL}{{domain="1"}}': 70,
        f'{LOCAL}{{domain="1"}}': 50,
        f'{REMOTE}{{domain="1"}}': 20,
    }
    assert [note.reason for note in host.take_notes()] == [f"the kernel reports {word}"]


def test_what_came_while_there_was_only_a_word_is_not_lost(machine: Machine, series: Series) -> None:
    """After a pass without a number the counter includes the traffic in between."""
    host = machine(INFO | _make_domain(0, 100, 100))
    series(resctrl.collect(host))
    machine(_make_domain(0, "Unavailable", "Unavailable"))

    assert series(resctrl.collect(host)) == {}

    machine(_make_domain(0, 180, 150))

    assert series(resctrl.collect(host)) == {
        f'{TOTAL}{{domain="0"}}': 180,
        f'{LOCAL}{{domain="0"}}': 150,
        f'{REMOTE}{{domain="0"}}': 30,
    }


def test_a_fall_adds_nothing(machine: Machine, series: Series) -> None:
    """A removed monitoring group takes its bytes out of its parent's sum, which is no traffic."""
    host = machine(INFO | _make_domain(0, 5_000_000, 4_000_000))
    series(resctrl.collect(host))
    machine(_make_domain(0, 3_000_000, 2_500_000))

    assert series(resctrl.collect(host))[f'{TOTAL}{{domain="0"}}'] == 5_000_000

    machine(_make_domain(0, 3_000_700, 2_500_200))

    assert series(resctrl.collect(host)) == {
        f'{TOTAL}{{domain="0"}}': 5_000_700,
        f'{LOCAL}{{domain="0"}}': 4_000_200,
        f'{REMOTE}{{domain="0"}}': 1_000_500,
    }


def test_a_group_that_is_made_anew_begins_anew(machine: Machine, series: Series) -> None:
    """A group's state is dropped with the group."""
    host = machine(INFO | _make_domain(0, 1, 1) | _make_domain(0, 900, 900, "batch/"))
    series(resctrl.collect(host))
    shutil.rmtree(host.path(f"{ROOT}/batch"))

    assert series(resctrl.collect(host)).keys() == {f'{name}{{domain="0"}}' for name in (TOTAL, LOCAL, REMOTE)}

    machine(_make_domain(0, 7, 7, "batch/"))

    assert series(resctrl.collect(host))[f'{TOTAL}{{domain="0",group="batch"}}'] == 7


def test_monitoring_groups_are_not_counted_twice(machine: Machine, series: Series) -> None:
    """A control group's values include those of its monitoring groups."""
    host = machine(INFO | _make_domain(0, 9, 9) | _make_domain(0, 4, 4, "mon_groups/watched/"))

    assert series(resctrl.collect(host))[f'{TOTAL}{{domain="0"}}'] == 9
    assert len(series(resctrl.collect(host))) == 3


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**15)) | st.just(("Unavailable", "Error")), max_size=8)
)
def test_no_counter_ever_falls(machine: Machine, series: Series, passes: list[tuple[object, object]]) -> None:
    """For any sequence of values, no counter falls, and remote never exceeds total."""
    host = Host(machine(INFO).root)  # a memory of its own for each example
    before: dict[str, float] = {}
    for total, local in passes:
        machine(_make_domain(0, total, local))  # type: ignore[arg-type]  # words and numbers alike become text
        now = series(resctrl.collect(host))

        assert all(now[name] >= value for name, value in before.items() if name in now)
        before |= now
        assert before.get(f'{REMOTE}{{domain="0"}}', 0) <= before.get(f'{TOTAL}{{domain="0"}}', 0)


def test_more_local_than_all_is_not_remote(machine: Machine, series: Series) -> None:
    """Where local exceeds total (processors with errata), remote is missing, not 0."""
    host = machine(INFO | _make_domain(0, 50, 70))

    assert series(resctrl.collect(host)).keys() == {f'{TOTAL}{{domain="0"}}', f'{LOCAL}{{domain="0"}}'}
    assert [note.path for note in host.take_notes()] == [f"{ROOT}/mon_data/mon_L3_00/mbm_local_bytes"]


def test_a_processor_without_local_counts_has_the_total(machine: Machine, series: Series) -> None:
    """Some processors count total only; that is no fault and leaves no note."""
    files = _make_domain(0, 50, 40)
    host = machine(INFO | {path: text for path, text in files.items() if "local" not in path})

    assert series(resctrl.collect(host)) == {f'{TOTAL}{{domain="0"}}': 50}
    assert host.take_notes() == []


def test_several_caches_lie_on_one_node(machine: Machine, series: Series) -> None:
    """On EPYC a node has many L3s; a domain is an L3's id, not a node's number."""
    caches = _make_caches((0, "0-3"), (1, "4-7"), (8, "8-11"))
    host = machine(
        INFO
        | _make_nodes("0-7", "8-11")
        | caches
        | _make_domain(0, 1, 1)
        | _make_domain(1, 2, 2)
        | _make_domain(8, 3, 3)
    )

    assert [line for line in series(resctrl.collect(host)) if line.startswith(TOTAL)] == [
        f'{TOTAL}{{domain="0",node="0"}}',
        f'{TOTAL}{{domain="1",node="0"}}',
        f'{TOTAL}{{domain="8",node="1"}}',
    ]


def test_a_cache_of_two_nodes_has_no_node(machine: Machine, series: Series) -> None:
    """Traffic of an undivided L3 of two nodes belongs to neither of them."""
    host = machine(INFO | _make_nodes("0-1", "2-3") | _make_caches((0, "0-3")) | _make_domain(0, 9, 8))

    assert f'{TOTAL}{{domain="0"}}' in series(resctrl.collect(host))


def test_a_divided_cache_is_told_by_its_parts(machine: Machine, series: Series) -> None:
    """Under sub-NUMA clustering the parts have the node's number, and their sum is not reported again."""
    part = f"{ROOT}/mon_data/mon_L3_01/mon_sub_L3_{{}}/mbm_total_bytes"
    host = machine(INFO | _make_domain(1, 30, 20) | {part.format("02"): "10\n", part.format("03"): "20\n"})

    assert series(resctrl.collect(host)) == {
        f'{TOTAL}{{domain="1",node="2"}}': 10,
        f'{TOTAL}{{domain="1",node="3"}}': 20,
    }


def test_events_that_were_set_anew_have_no_remote(machine: Machine, series: Series) -> None:
    """Where AMD's events were reconfigured, total less local is not the remote traffic."""
    config = {
        f"{ROOT}/info/L3_MON/mbm_total_bytes_config": "0=0x7f;1=0x30\n",
        f"{ROOT}/info/L3_MON/mbm_local_bytes_config": "0=0x15;1=0x15\n",
    }
    host = machine(INFO | config | _make_domain(0, 9, 5) | _make_domain(1, 9, 5))
    values = series(resctrl.collect(host))

    assert f'{REMOTE}{{domain="0"}}' in values
    assert f'{REMOTE}{{domain="1"}}' not in values
    assert "domain 1" in host.take_notes()[0].reason


def test_other_resources_are_passed_over(machine: Machine) -> None:
    """Newer kernels also count energy per package there, which is ignored."""
    host = machine(INFO | {f"{ROOT}/mon_data/mon_PERF_PKG_00/core_energy": "1.5\n"})

    assert list(resctrl.collect(host)) == []
