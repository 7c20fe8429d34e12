"""README.zh-CN.md says what README.md says: the same parts, commands, settings, names and links, in order."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import HOUSE, list_blocks, list_headings, list_links, read_prose

ENGLISH, CHINESE = HOUSE / "README.md", HOUSE / "README.zh-CN.md"
EACH_OTHER = {"README.md", "README.zh-CN.md"}


def _split_parts(page: Path) -> list[str]:
    """The text of each part, headings left out."""
    return re.split(r"^#+ .*$", read_prose(page), flags=re.MULTILINE)


def _find_code(part: str) -> list[str]:
    """What is in backticks, which is the same in every language."""
    return sorted(set(re.findall(r"`([^`\n]+)`", part)) - EACH_OTHER)


def _strip_explanations(text: str) -> list[str]:
    """A block's lines without what is only explained to people."""
    lines = [re.sub(r"\s+#.*$", "", line) for line in text.splitlines()]
    return [re.split(r"\s{2,}", line.strip())[0] if not line.startswith(" ") else line.rstrip() for line in lines]


def test_it_has_the_same_parts() -> None:
    """As many headings, of the same levels."""

    assert [level for level, _ in list_headings(CHINESE)] == [level for level, _ in list_headings(ENGLISH)]


def test_it_has_the_same_blocks() -> None:
    """Commands and settings are equal line by line; only explanations are in Chinese."""
    ours, theirs = ([_strip_explanations(block.text) for block in list_blocks(page)] for page in (CHINESE, ENGLISH))

    assert ours == theirs


def test_each_part_names_the_same_things() -> None:
    """Commands, options, files, settings and metrics in backticks, part by part."""
    for number, (ours, theirs) in enumerate(zip(_split_parts(CHINESE), _split_parts(ENGLISH), strict=True)):
        heading = list_headings(ENGLISH)[number - 1][1] if number else "the beginning"

        assert _find_code(ours) == _find_code(theirs), f"README.zh-CN.md differs under {heading!r}"


def test_it_has_the_same_links() -> None:
    """In the same order, but for those from one README to the other."""
    ours, theirs = ([link for link in list_links(page) if link not in EACH_OTHER] for page in (CHINESE, ENGLISH))

    assert ours == theirs


def test_it_is_chinese_and_they_find_each_other() -> None:
    """More than half of its letters outside of code are Chinese; each README links to the other."""
    text = re.sub(r"`[^`]*`", "", read_prose(CHINESE))
    han, latin = (len(re.findall(pattern, text)) for pattern in (r"[\u4e00-\u9fff]", r"[A-Za-z]"))

    assert han > latin
    assert "README.md" in set(list_links(CHINESE))
    assert "README.zh-CN.md" in set(list_links(ENGLISH))
