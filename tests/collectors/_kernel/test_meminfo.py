"""Fields of meminfo: their names as metrics, and any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Host, Metric, gauge
from collectors._kernel.meminfo import FieldSeries, parse_fields, to_snake_case


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("MemTotal", "mem_total"),
        ("Active(file)", "active_file"),
        ("DirectMap4k", "direct_map4k"),
        ("DirectMap2M", "direct_map2m"),
        ("SReclaimable", "sreclaimable"),
        ("SecPageTables", "secpage_tables"),
        ("NewMB", "newmb"),
        ("S_B_Sec", "sbsec"),
        ("KReclaimable", "k_reclaimable"),
        ("NFS_Unstable", "nfs_unstable"),
        ("Committed_AS", "committed_as"),
        ("GPUActive", "gpu_active"),
        ("Hugepagesize", "hugepagesize"),
    ],
)
def test_fields_are_named_in_snake_case(field: str, name: str) -> None:
    """The kernel's spelling becomes words with underscores."""
    assert to_snake_case(field) == name


@given(st.text() | st.from_regex(r"(Node 0 )?[A-Za-z_()]{1,8}: +\d{1,20}( kB)?\n?"))
def test_any_text_gives_samples_or_none(text: str) -> None:
    """No text raises, and every resulting name is valid and in bytes."""
    huge_pages = gauge("steadytok_meminfo_huge_pages", "")
    metrics: tuple[tuple[str, Metric], ...] = ()
    samples = list(
        FieldSeries("steadytok_meminfo", metrics, huge_pages).make_samples(Host("/nowhere"), "proc/meminfo", text, ())
    )

    assert len(samples) <= len(parse_fields(text))
    for sample in samples:
        assert sample.value >= 0
        assert sample.metric is huge_pages or re.fullmatch(r"steadytok_meminfo_[a-z0-9_]+_bytes", sample.metric.name)
