"""Texts that outlast a process: whole or absent, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

from collectors import Host
from collectors._host.cache import Cache


def test_a_text_outlasts_its_process(tmp_path: Path) -> None:
    """A text put through one Cache is readable through another of the same folder, and by its owner only."""
    folder = tmp_path / "a" / "cache"
    Cache(folder).put("x.json", "text")

    assert Cache(folder).get("x.json") == "text"
    assert (folder / "x.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == ["x.json"]


def test_without_a_folder_it_lasts_as_long_as_we_do(tmp_path: Path) -> None:
    """Without a folder, or with one that cannot be made, the same Cache still returns the text."""
    (tmp_path / "file").write_text("")
    for cache in (Cache(), Cache(tmp_path / "file" / "cache")):
        cache.put("x.json", "text")

        assert cache.get("x.json") == "text"
        assert cache.get("y.json") is None


def test_what_is_no_text_is_none(tmp_path: Path) -> None:
    """A file that is not text counts as absent."""
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")

    assert Cache(tmp_path).get("x.json") is None


def test_a_third_party_finds_it_under_its_first_name(tmp_path: Path) -> None:
    """`host.shelf`, as the first version of the contract called it, is `host.cache`."""
    host = Host("/", tmp_path)
    host.shelf.put("x.json", "text")

    assert host.cache.get("x.json") == "text"
