"""Reads headings, links and code blocks from the pages of docs/ and the READMEs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HOUSE = Path(__file__).parents[2]
PAGES = [
    *(HOUSE / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((HOUSE / "docs").rglob("*.md")),
]


class Block(NamedTuple):
    """A code block with the language of its fence."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{format_path(self.page)}:{self.line}"


def format_path(page: Path) -> str:
    """Returns the page's path in the repository."""
    return str(page.relative_to(HOUSE))


def list_blocks(page: Path) -> Iterator[Block]:
    """Yields every fenced block."""
    inside: list[str] | None = None
    language, start_line = "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside, language, start_line = [], line.removeprefix("```").strip(), number
        else:
            yield Block(page, start_line, language, "\n".join(inside) + "\n")
            inside = None


def read_prose(page: Path) -> str:
    """Returns the text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def list_headings(page: Path) -> list[tuple[int, str]]:
    """Returns level and text of each heading."""
    return [(len(match[1]), match[2]) for match in re.finditer(r"^(#+) (.+)$", read_prose(page), re.MULTILINE)]


def list_anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings, as Python-Markdown and GitHub derive them."""
    plain = (re.sub(r"[^\w\s-]", "", text).strip().lower() for _, text in list_headings(page))
    return {re.sub(r"\s+", "-", text) for text in plain}


def list_links(page: Path) -> Iterator[str]:
    """Yields the targets of all links."""
    yield from re.findall(r"\]\(([^)\s]+)\)", read_prose(page))
    yield from re.findall(r"<(https?://[^>\s]+)>", read_prose(page))
