"""
Parses the lines of /proc/meminfo and node*/meminfo: `MemFree: 123 kB`, `HugePages_Free: 4`.

The lines of a node's file begin with `Node 0 `. https://docs.kernel.org/filesystems/proc.html#meminfo
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors._host.host import Host
from collectors._host.sample import Labels, Metric, Sample, gauge

_LINE = re.compile(r"^(?:Node \d+ )?([A-Za-z][A-Za-z0-9_()]{0,63}): +(\d{1,16})( kB)?$", re.ASCII | re.MULTILINE)
_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# `promtool check metrics` would take the `s` of `s_reclaimable` for a unit, so it joins the word beside it.
_UNIT_WORDS = re.compile(r"(?:(?<![a-z0-9])(?:[smhdb]|[mun]s|sec|[kmgtp]b)_)+|(?:_(?:[smhdb]|[mun]s|sec|[kmgtp]b))+$")
_HUGE_PAGES = "HugePages_"
_MAX_FIELDS = 500  # Linux 6.18 has 55; a file whose fields change at each pass must not fill the memory

# Field and meaning. A field that is not listed here (a newer kernel's) is read all the same.
SHARED_FIELDS = (
    ("MemTotal", "Usable memory: physical memory less what firmware and the kernel image keep"),
    ("MemFree", "Memory that nothing uses, not even the page cache"),
    ("SwapCached", "Memory that is also still in swap"),
    ("Active", "Memory used recently"),
    ("Inactive", "Memory not used recently, first to be reclaimed"),
    ("Active(anon)", "Anonymous memory used recently"),
    ("Inactive(anon)", "Anonymous memory not used recently"),
    ("Active(file)", "Page cache used recently"),
    ("Inactive(file)", "Page cache not used recently"),
    ("Unevictable", "Memory that cannot be reclaimed, such as locked memory"),
    ("Mlocked", "Memory locked with mlock"),
    ("Dirty", "Memory waiting to be written to disk"),
    ("Writeback", "Memory being written to disk"),
    ("AnonPages", "Anonymous memory mapped by processes"),
    ("Mapped", "Files mapped by processes"),
    ("Shmem", "Shared memory and tmpfs"),
    ("KReclaimable", "Kernel memory that can be reclaimed, SReclaimable included"),
    ("Slab", "Memory of the kernel's own data structures"),
    ("SReclaimable", "Slab that can be reclaimed, such as caches of inodes"),
    ("SUnreclaim", "Slab that cannot be reclaimed"),
    ("KernelStack", "Kernel stacks of all tasks"),
    ("PageTables", "Page tables of processes"),
    ("SecPageTables", "Page tables of virtual machines and IOMMUs"),
    ("NFS_Unstable", "Always 0 since Linux 5.8"),
    ("Bounce", "Bounce buffers of block devices"),
    ("WritebackTmp", "Write-back buffers of FUSE"),
    ("AnonHugePages", "Anonymous memory in transparent huge pages"),
    ("ShmemHugePages", "Shared memory in huge pages"),
    ("ShmemPmdMapped", "Shared memory mapped by huge pages"),
    ("FileHugePages", "Page cache in huge pages"),
    ("FilePmdMapped", "Page cache mapped by huge pages"),
    ("Unaccepted", "Memory that a confidential guest has not accepted yet"),
)
HOST_FIELDS = (
    ("MemAvailable", "The kernel's estimate of memory available without swapping"),
    ("Buffers", "Page cache of block devices"),
    ("Cached", "Page cache of files, shared memory included"),
    ("SwapTotal", "Size of swap"),
    ("SwapFree", "Swap that is not used"),
    ("Zswap", "Memory that compressed swap takes"),
    ("Zswapped", "Memory that is kept in compressed swap, before compression"),
    ("CommitLimit", "What may be committed under strict overcommit"),
    ("Committed_AS", "Memory that processes have asked for, used or not"),
    ("VmallocTotal", "Address space for vmalloc"),
    ("VmallocUsed", "Address space for vmalloc in use"),
    ("VmallocChunk", "Always 0 since Linux 4.4"),
    ("Percpu", "Memory of per-CPU allocations"),
    ("HardwareCorrupted", "Memory taken out of use because the hardware reported it corrupt"),
    ("CmaTotal", "Memory reserved for contiguous allocations"),
    ("CmaFree", "Memory reserved for contiguous allocations that is free"),
    ("Balloon", "Memory that balloon drivers gave back to the hypervisor"),
    ("Hugepagesize", "Size of a default huge page"),
    ("Hugetlb", "Memory in huge pages of all sizes"),
    ("DirectMap4k", "Memory that the kernel maps by 4 KiB pages"),
    ("DirectMap2M", "Memory that the kernel maps by 2 MiB pages"),
    ("DirectMap1G", "Memory that the kernel maps by 1 GiB pages"),
)
NODE_FIELDS = (
    ("MemUsed", "Memory of the node that is not free, page cache included"),
    ("FilePages", "Page cache of the node, shared memory included"),
)


def parse_fields(text: str) -> list[tuple[str, str, str]]:
    """Returns (field, digits, unit) of each well-formed line; the unit is ` kB`, or empty for a count."""
    lines: list[tuple[str, str, str]] = _LINE.findall(text)
    return lines


def to_snake_case(field: str) -> str:
    """Turns `Active(file)` into `active_file`, `DirectMap2M` into `direct_map2m`, `SReclaimable` to `sreclaimable`."""
    words = _WORD_STARTS.sub("_", re.sub(r"[^A-Za-z0-9]+", "_", field).strip("_")).lower()
    return _UNIT_WORDS.sub(lambda match: match[0].replace("_", ""), words)


def make_field_metric(prefix: str, field: str, meaning: str) -> Metric:
    """Makes the gauge of a field, in bytes."""
    return gauge(f"{prefix}_{to_snake_case(field)}_bytes", f"{meaning} ({field}).")


def has_wrong_unit(field: str, unit: str) -> bool:
    """Returns True where a field's unit is not its usual one: a line was cut, or a count has become a size."""
    return field.startswith(_HUGE_PAGES) == bool(unit)


class FieldSeries:
    """The series of one kind of meminfo file, by field; a series of an unlisted field is made once."""

    def __init__(self, prefix: str, metrics: tuple[tuple[str, Metric], ...], huge_pages: Metric) -> None:
        self._prefix = prefix
        self._huge_pages = huge_pages
        self._series: dict[str, tuple[Metric, Labels] | None] = {field: (metric, ()) for field, metric in metrics}
        self._used_series: set[tuple[str, Labels]] = {(metric.name, ()) for _, metric in metrics}

    def make_samples(self, host: Host, relative: str, text: str, labels: Labels) -> Iterator[Sample]:
        """
        Yields a Sample for each field of the text, in bytes or huge pages; notes malformed lines.

        The names of `labels` must come before the label `state` in the alphabet.
        """
        values = {field: (digits, unit) for field, digits, unit in parse_fields(text)}
        if unmatched := text.count("\n") + 1 - len(values):
            host.note(relative, f"{unmatched} lines unlike `MemFree: 123 kB`")
        for field, (digits, unit) in values.items():
            if has_wrong_unit(field, unit):
                self._note_unit(host, relative, field)
            elif (series := self._find_series(field)) is None:
                host.note(relative, f"{field} cannot have a series of its own")
            else:
                metric, state = series
                yield Sample(metric, labels + state, int(digits) * (1024.0 if unit else 1.0))

    def _note_unit(self, host: Host, relative: str, field: str) -> None:
        # A new field without a unit is neither bytes nor huge pages: it has no metric, and no reading is missing.
        if field in self._series or field.startswith(_HUGE_PAGES):
            host.note(relative, f"{field} lacks its usual unit")

    def _find_series(self, field: str) -> tuple[Metric, Labels] | None:
        if field not in self._series and len(self._series) < _MAX_FIELDS:
            metric, state = self._make_series(field)
            # Two fields whose names differ only in punctuation cannot share a series.
            self._series[field] = None if (metric.name, state) in self._used_series else (metric, state)
            self._used_series.add((metric.name, state))
        return self._series.get(field)

    def _make_series(self, field: str) -> tuple[Metric, Labels]:
        if field.startswith(_HUGE_PAGES):
            return self._huge_pages, (("state", to_snake_case(field.removeprefix(_HUGE_PAGES)) or "unnamed"),)
        return make_field_metric(self._prefix, field, "Memory as the kernel reports it"), ()
