"""The list of /proc/vmstat's counters that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, vmstat

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]


def test_only_the_list_is_read(machine: Machine, series: Series) -> None:
    """A line that only begins like a listed one does not match, and unknown lines are ignored."""
    host = machine({"proc/vmstat": "pgscan_direct_throttle 1\npgscan_direct 2\nnr_mlock 3\nbrand_new 4\n"})

    assert series(vmstat.collect(host)) == {"steadytok_vmstat_pgscan_direct_total": 2}
    assert host.take_notes() == []


def test_refaults_of_kernels_before_5_9_have_a_name_of_their_own(machine: Machine, series: Series) -> None:
    """Linux 5.9 split workingset_refault by kind; before, all of them were refaults of files."""
    host = machine({"proc/vmstat": "workingset_refault 12\nworkingset_activate 3\n"})

    assert series(vmstat.collect(host)) == {"steadytok_vmstat_workingset_refault_total": 12}


@pytest.mark.parametrize("line", ["pgfault", "pgfault x", "pgfault -1", "pgfault 1 2", "pgfault 1e3", "5"])
def test_one_bad_line_shifts_no_other(machine: Machine, series: Series, line: str) -> None:
    """A cut line is missing and noted; each other keeps its own number."""
    host = machine({"proc/vmstat": f"oom_kill 7\n{line}\npgmajfault 8\n"})

    assert series(vmstat.collect(host)) == {
        "steadytok_vmstat_oom_kill_total": 7,
        "steadytok_vmstat_pgmajfault_total": 8,
    }
    assert len(host.take_notes()) == 1


def test_a_flood_of_garbage_is_one_note(machine: Machine) -> None:
    """Two million empty lines do not become two million notes."""
    host = machine({"proc/vmstat": "x" + "\n" * (2 << 20) + "x"})

    assert list(vmstat.collect(host)) == []
    assert len(host.take_notes()) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is written anew for each example
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.from_regex(r"(pg[a-z_]{1,9} \d{1,25}\n){1,7}"))
def test_any_text_gives_numbers_or_nothing(machine: Machine, text: str) -> None:
    """No text raises."""
    for reading in vmstat.collect(machine({"proc/vmstat": text})):
        assert reading is not None and reading.value >= 0
