"""Allocations by node: the counters, and the switch that stops them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, numastat

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

NODE = "sys/devices/system/node/node{}/numastat"
TEXT = "numa_hit 1\nnuma_miss 2\nnuma_foreign 3\ninterleave_hit 4\nlocal_node 5\nother_node 6\n"
SWITCH = "proc/sys/vm/numa_stat"


def test_counters_that_are_switched_off_are_missing(machine: Machine) -> None:
    """Under vm.numa_stat=0 the files keep their last numbers, which are no readings."""
    host = machine({NODE.format(0): TEXT, NODE.format(1): TEXT, SWITCH: "0\n"})

    assert list(numastat.collect(host)) == []
    assert [note.path for note in host.take_notes()] == [SWITCH]


@pytest.mark.parametrize("switch", [{}, {SWITCH: "1\n"}])
def test_counters_that_count_are_read(machine: Machine, switch: dict[str, str]) -> None:
    """A kernel before 4.15 has no switch, and counts."""
    host = machine({NODE.format(0): TEXT, **switch})

    assert [reading.value for reading in numastat.collect(host) if reading is not None] == [1, 2, 3, 4, 5, 6]
    assert host.take_notes() == []


def test_no_name_or_help_speaks_of_pages_or_bytes() -> None:
    """The kernel counts an allocation once whatever its size, so no unit of memory can be right."""
    for metric in numastat.METRICS:
        assert "page" not in metric.name + metric.help
        assert "byte" not in metric.name + metric.help
        assert "allocations" in metric.help.lower()


def test_one_bad_line_hides_no_other(machine: Machine, series: Series) -> None:
    """An unreadable counter is missing and noted; the five beside it are read."""
    host = machine({NODE.format(0): TEXT.replace("numa_miss 2", "numa_miss"), NODE.format(10): TEXT})
    values = series(numastat.collect(host))

    assert len(values) == 11
    assert 'steadytok_numastat_numa_miss_total{node="0"}' not in values
    assert [note.path for note in host.take_notes()] == [NODE.format(0)]


def test_folders_that_only_look_like_nodes_are_passed_over(machine: Machine) -> None:
    """Only node followed by a number is a node."""
    host = machine({"sys/devices/system/node/nodes/numastat": TEXT, "sys/devices/system/node/power/numastat": TEXT})

    assert list(numastat.collect(host)) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is written anew for each example
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.from_regex(r"([a-z_]{1,12} \d{1,25}\n){1,7}"))
def test_any_text_gives_numbers_or_nothing(machine: Machine, text: str) -> None:
    """No text raises, and every resulting number's name is in the text."""
    host = machine({NODE.format(0): text})

    for reading in numastat.collect(host):
        assert reading is not None
        assert reading.metric.name.removeprefix("steadytok_numastat_").removesuffix("_total") in text
