"""The traps of edac: two layouts of the same errors, labels with any content, files that a driver lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from collectors import Host, Reading, edac

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
MC = "sys/devices/system/edac/mc/mc0"
DIMM = "steadytok_edac_dimm_correctable_errors_total"
ROWS = {
    f"{MC}/ce_count": "7",
    f"{MC}/ue_count": "0",
    f"{MC}/csrow0/ch0_ce_count": "7",
    f"{MC}/csrow0/ch0_dimm_label": "CPU_SrcID#0_MC#0_Chan#0_DIMM#0",
}
DIMMS = {
    f"{MC}/dimm0/dimm_ce_count": "7",
    f"{MC}/dimm0/dimm_ue_count": "0",
    f"{MC}/dimm0/dimm_label": "CPU_SrcID#0_MC#0_Chan#0_DIMM#0",
}


def test_rows_are_read_where_there_is_nothing_else(machine: Machine, series: Series) -> None:
    """The older layout names a DIMM by row and channel, and has no uncorrectable errors per DIMM."""
    values = series(edac.collect(machine(ROWS)))

    assert {name: value for name, value in values.items() if "_dimm_" in name} == {
        f'{DIMM}{{controller="mc0",dimm="csrow0_ch0",label="CPU_SrcID#0_MC#0_Chan#0_DIMM#0"}}': 7
    }


def test_both_layouts_tell_of_the_same_errors(machine: Machine, series: Series) -> None:
    """Where both layouts exist, each error is counted once."""
    values = series(edac.collect(machine(ROWS | DIMMS)))

    assert {name: value for name, value in values.items() if name.startswith(DIMM)} == {
        f'{DIMM}{{controller="mc0",dimm="dimm0",label="CPU_SrcID#0_MC#0_Chan#0_DIMM#0"}}': 7
    }


def test_dimms_without_counts_leave_the_rows(machine: Machine, series: Series) -> None:
    """Before Linux 4.7 dimm*/ has labels and no counts: the rows have them."""
    values = series(edac.collect(machine(ROWS | {f"{MC}/dimm0/dimm_label": "A1"})))

    assert sum(name.startswith(DIMM) for name in values) == 1


def test_ranks_count_like_dimms(machine: Machine, series: Series) -> None:
    """Some controllers show ranks instead of DIMMs."""
    files = {path.replace("dimm0/", "rank12/"): text for path, text in DIMMS.items()}
    values = series(edac.collect(machine(files | {f"{MC}/ce_count": "7"})))

    assert f'{DIMM}{{controller="mc0",dimm="rank12",label="CPU_SrcID#0_MC#0_Chan#0_DIMM#0"}}' in values


def test_a_driver_may_not_count_uncorrectable_errors(machine: Machine, series: Series) -> None:
    """node_exporter #3730: without ue_count the correctable errors are read, and nothing is missing."""
    host = machine({f"{MC}/ce_count": "3"})

    assert series(edac.collect(host)) == {'steadytok_edac_correctable_errors_total{controller="mc0"}': 3}
    assert host.take_notes() == []


def test_a_negative_count_is_no_count(machine: Machine, series: Series) -> None:
    """A count below 0 is not a reading."""
    host = machine({f"{MC}/ce_count": "-1"})

    assert series(edac.collect(host)) == {}
    assert len(host.take_notes()) == 1


def test_a_label_may_have_spaces(machine: Machine, series: Series) -> None:
    """The label printed on the board is passed on unchanged."""
    host = machine(ROWS | {f"{MC}/csrow0/ch0_dimm_label": "DIMM A1 (blue) \n"})

    assert f'{DIMM}{{controller="mc0",dimm="csrow0_ch0",label="DIMM A1 (blue)"}}' in series(edac.collect(host))
