"""The mappings of a process, by kind of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host
from collectors._process.maps import MemoryMapping as Mapped
from collectors._process.maps import read_mappings

Machine = Callable[[Mapping[str, str]], Host]
MAPS = """\
55d0c0000000-55d0c0010000 r-xp 00000000 08:01 131 /usr/bin/python3.11 (deleted)
55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 [anon:glibc: malloc]
7f0010000000-7f0010200000 rw-p 00000000 00:0f 99 /anon_hugepage (deleted)
7f0020000000-7f0020200000 rw-s 00000000 00:2a 7 /srv/pages/kv cache
7f0030000000-7f0030100000 rw-s 00000000 00:01 5 /memfd:shared (deleted)
7f0031000000-7f0031100000 rw-s 00000000 00:1b 5 /run/weights
7f0032000000-7f0032100000 rw-s 00000000 00:01 9 /dev/zero (deleted)
7f0040000000-7f0080000000 ---p 00000000 00:00 0
7f0090000000-7f00a0000000 rw-s 00000000 00:06 4 /dev/nvidia-uvm
7f00b0000000-7f00b0001000 rw-s 00000000 00:0e 4 anon_inode:[io_uring]
7f00c0000000-7f00c0100000 rw-p 00000000 00:00 0
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
7ffe00030000-7ffe00032000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
33 22 0:27 / /run rw - tmpfs tmpfs rw
44 22 0:42 / /srv/pages rw - hugetlbfs hugetlbfs rw
"""


def test_mappings_have_the_kernels_kinds(machine: Machine) -> None:
    """Mappings of host memory have the kinds of status; reservations and devices are left out."""
    host = machine({"proc/9/maps": MAPS, "proc/9/mountinfo": MOUNTS})

    kinds = [mapping.kind for mapping in read_mappings(host, 9) or []]
    assert kinds == ["file", "anon", "anon", "hugetlb", "hugetlb", "shmem", "shmem", "shmem", "anon", "anon"]
    assert (read_mappings(host, 9) or [])[1] == Mapped(0x55D0C1000000, 0x55D0C1100000, "anon")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.integers(0, len(MAPS.splitlines()) - 1),
    st.text(st.characters(exclude_characters="\n\r", codec="ascii"), max_size=30),
)
def test_a_line_that_is_none_is_not_passed_over(machine: Machine, index: int, damage: str) -> None:
    """With a malformed line the whole file is unreadable, since the shares would lack that mapping's pages."""
    lines = MAPS.splitlines()
    lines[index] = f"{damage}!{lines[index]}"
    host = machine({"proc/9/maps": "\n".join(lines)})

    assert read_mappings(host, 9) is None
    assert [note.path for note in host.take_notes()] == ["proc/9/maps"]
