"""Texts that outlast a process: whole or absent, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

from collectors._host.cache import Cache


def test_a_text_outlasts_its_process(tmp_path: Path) -> None:
    """A text put through one Cache is readable through another of the same folder, and by its owner only."""
    folder = tmp_path / "a" / "shelf"
    Cache(folder).put("x.json", "text")

    assert Cache(folder).get("x.json") == "text"
    assert (folder / "x.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == ["x.json"]


def test_without_a_folder_it_lasts_as_long_as_we_do(tmp_path: Path) -> None:
    """Without a folder, or with one that cannot be made, the same Cache still returns the text."""
    (tmp_path / "file").write_text("")
    for shelf in (Cache(), Cache(tmp_path / "file" / "shelf")):
        shelf.put("x.json", "text")

        assert shelf.get("x.json") == "text"
        assert shelf.get("y.json") is None


def test_what_is_no_text_is_none(tmp_path: Path) -> None:
    """A file that is not text counts as absent."""
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")

    assert Cache(tmp_path).get("x.json") is None
