"""MkDocs' hook: writes the search index as a script too, since browsers refuse to fetch JSON from the disk."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority


@event_priority(-100)  # after the search plugin, which writes search_index.json in the same event
def on_post_build(config: MkDocsConfig) -> None:
    """Writes search/search_index.js, which javascript/search_from_disk.js loads."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"window.searchIndex = {index};\n", encoding="utf-8")
