"""The memory of the host and of each node: units, new fields, available memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Host, Reading, meminfo, node_meminfo

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

PREFIX = "steadytok_node_meminfo"
NODE = """Node 0 MemTotal:  1000000 kB
Node 0 MemFree:  2000 kB
Node 0 Active(file):  30000 kB
Node 0 Inactive(file):  500000 kB
Node 0 Mapped:  400000 kB
Node 0 SReclaimable:  7000 kB
"""
ZONES = """Node 0, zone   Normal
        low      1000
        managed  250000
"""


def read_available(machine: Machine, series: Series, meminfo_text: str, zoneinfo: str = ZONES) -> float | None:
    """Returns the node's available bytes, if there are any."""
    host = machine({"sys/devices/system/node/node0/meminfo": meminfo_text, "proc/zoneinfo": zoneinfo})
    return series(node_meminfo.collect(host)).get(f'{PREFIX}_available_bytes{{node="0"}}')


def test_a_field_of_a_newer_kernel_is_read(machine: Machine, series: Series) -> None:
    """An unlisted field has a series of its own, with the same Metric in each pass."""
    host = machine({"proc/meminfo": "MemTotal: 8 kB\nHotNewThing(x): 3 kB\n"})
    first, second = list(meminfo.collect(host)), list(meminfo.collect(host))

    assert series(first)["steadytok_meminfo_hot_new_thing_x_bytes"] == 3072
    assert first[1] is not None and second[1] is not None
    assert first[1].metric is second[1].metric
    assert host.take_notes() == []


def test_two_fields_never_share_a_series(machine: Machine) -> None:
    """Fields that differ in punctuation only give one series, not a duplicate."""
    readings = list(meminfo.collect(machine({"proc/meminfo": "New(x): 3 kB\nNew_x: 4 kB\nMem(Total): 5 kB\n"})))

    assert [reading.value for reading in readings if reading is not None] == [3072]


def test_huge_pages_are_counts(machine: Machine, series: Series) -> None:
    """HugePages_Total is a number of pages; no series has it in bytes."""
    values = series(meminfo.collect(machine({"proc/meminfo": "HugePages_Total: 512\nHugePages_New: 4\n"})))

    assert values == {
        'steadytok_meminfo_huge_pages{state="total"}': 512,
        'steadytok_meminfo_huge_pages{state="new"}': 4,
    }


@pytest.mark.parametrize(
    "line", ["MemFree: 12", "HugePages_Free: 12 kB", "MemFree: 12 MB", "MemFree: 1_2 kB", "MemFree"]
)
def test_a_wrong_unit_is_missing_and_counted(machine: Machine, series: Series, line: str) -> None:
    """A cut or strange line gives no value, one note, and leaves the lines beside it."""
    host = machine({"proc/meminfo": f"MemTotal: 8 kB\n{line}\nMapped: 2 kB\n"})
    values = series(meminfo.collect(host))

    assert values == {"steadytok_meminfo_mem_total_bytes": 8192, "steadytok_meminfo_mapped_bytes": 2048}
    assert len(host.take_notes()) == 1


def test_available_is_free_and_what_can_be_dropped(machine: Machine, series: Series) -> None:
    """Available memory is free + unmapped page cache + reclaimable slab - low watermark."""
    expected = 2000 + (30000 + 500000 - 400000) + 7000 - 1000 * 4

    assert read_available(machine, series, NODE) == expected * 1024


def test_available_does_not_depend_on_the_page_size(machine: Machine, series: Series) -> None:
    """The same node with pages of 64 KiB has sixteen times fewer pages and the same bytes."""
    large_pages = ZONES.replace("1000", "125").replace("250000", "15625")
    expected = 2000 + 130000 + 7000 - 125 * 64

    assert read_available(machine, series, NODE, large_pages) == expected * 1024


def test_more_mapped_than_cached_takes_nothing_away(machine: Machine, series: Series) -> None:
    """Mapped shared memory may exceed the page cache; the term is then 0, not negative."""
    mapped = NODE.replace("400000", "900000")

    assert read_available(machine, series, mapped) == (2000 + 7000 - 4000) * 1024


def test_available_is_never_below_zero(machine: Machine, series: Series) -> None:
    """A node below its watermark has 0 available."""
    full = NODE.replace("2000", "20").replace("400000", "900000").replace("7000", "70")

    assert read_available(machine, series, full) == 0


@pytest.mark.parametrize("field", ["MemFree", "Active(file)", "Inactive(file)", "Mapped", "SReclaimable"])
def test_available_needs_every_term(machine: Machine, series: Series, field: str) -> None:
    """Without one of its terms the value is missing, since a partial sum would be wrong."""
    lines = [line for line in NODE.splitlines() if f" {field}:" not in line]

    assert read_available(machine, series, "\n".join(lines)) is None


def test_available_without_zoneinfo_leaves_the_watermark_out(machine: Machine, series: Series) -> None:
    """An unreadable zoneinfo omits the watermark, and is noted in each pass."""
    host = machine({"sys/devices/system/node/node0/meminfo": NODE})
    values = [series(node_meminfo.collect(host)) for _ in range(2)]

    assert [one[f'{PREFIX}_available_bytes{{node="0"}}'] for one in values] == [139000 * 1024] * 2
    assert [note.path for note in host.take_notes()] == ["proc/zoneinfo"] * 2


def test_zoneinfo_is_read_anew_when_a_node_appears(machine: Machine, series: Series) -> None:
    """A node that appears while the agent runs has its watermark at once."""
    host = machine({"sys/devices/system/node/node0/meminfo": NODE, "proc/zoneinfo": ZONES})
    list(node_meminfo.collect(host))
    machine({"sys/devices/system/node/node4/meminfo": NODE, "proc/zoneinfo": ZONES + ZONES.replace("Node 0", "Node 4")})
    values = series(node_meminfo.collect(host))

    assert values[f'{PREFIX}_available_bytes{{node="4"}}'] == 135000 * 1024


def test_zoneinfo_is_read_anew_after_a_while(machine: Machine, series: Series) -> None:
    """An operator's change of a watermark shows within two minutes of passes."""
    host = machine({"sys/devices/system/node/node0/meminfo": NODE, "proc/zoneinfo": ZONES})
    list(node_meminfo.collect(host))
    machine({"proc/zoneinfo": ZONES.replace("1000", "2000")})
    values = [series(node_meminfo.collect(host))[f'{PREFIX}_available_bytes{{node="0"}}'] for _ in range(120)]

    assert (values[0], values[-1]) == (135000 * 1024, 131000 * 1024)


def test_watermarks_that_are_lost_later_stay_known(machine: Machine, series: Series) -> None:
    """A zoneinfo that becomes unreadable does not make the node look larger."""
    host = machine({"sys/devices/system/node/node0/meminfo": NODE, "proc/zoneinfo": ZONES})
    list(node_meminfo.collect(host))
    machine({"proc/zoneinfo": "<unknown>"})
    values = [series(node_meminfo.collect(host))[f'{PREFIX}_available_bytes{{node="0"}}'] for _ in range(120)]

    assert set(values) == {135000 * 1024}


def test_no_number_of_fields_can_exhaust_memory(machine: Machine) -> None:
    """Field names that change in each pass are dropped after some hundreds."""
    host = machine({})
    for turn in range(20):
        machine({"proc/meminfo": "".join(f"A{turn}x{number}: 1 kB\n" for number in range(100))})
        last = list(meminfo.collect(host))

    assert last == []
    assert len(host.take_notes()) > 0


@given(st.text() | st.from_regex(r"(Node \d, zone +Normal\n( +(low|managed) +\d{1,9}\n){0,3}){0,3}"))
def test_any_zoneinfo_gives_shares_or_none(text: str) -> None:
    """No text raises, and a watermark is never more than the whole node."""
    assert all(0 <= share <= 1 for share in node_meminfo.compute_watermark_shares(text).values())
