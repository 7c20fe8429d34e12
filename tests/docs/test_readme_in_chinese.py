"""README.zh-CN.md has the same parts, commands, settings, names and links as README.md, in the same order."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import HOUSE, list_blocks, list_headings, list_links, read_prose

ENGLISH, CHINESE = HOUSE / "README.md", HOUSE / "README.zh-CN.md"
EACH_OTHER = {"README.md", "README.zh-CN.md"}


def _split_parts(page: Path) -> list[str]:
    """Returns the text of each part, without headings."""
    return re.split(r"^#+ .*$", read_prose(page), flags=re.MULTILINE)


def _find_code(part: str) -> list[str]:
    """Returns the texts in backticks, which are the same in every language."""
    return sorted(set(re.findall(r"`([^`\n]+)`", part)) - EACH_OTHER)


def _strip_explanations(text: str) -> list[str]:
    """Returns a block's lines without explanations."""
    lines = [re.sub(r"\s+#.*$", "", line) for line in text.splitlines()]
    return [re.split(r"\s{2,}", line.strip())[0] if not line.startswith(" ") else line.rstrip() for line in lines]


def test_it_has_the_same_parts() -> None:
    """Both have as many headings, of the same levels."""

    assert [level for level, _ in list_headings(CHINESE)] == [level for level, _ in list_headings(ENGLISH)]


def test_it_has_the_same_blocks() -> None:
    """Commands and settings are equal line by line; only the explanations are translated."""
    ours, theirs = ([_strip_explanations(block.text) for block in list_blocks(page)] for page in (CHINESE, ENGLISH))

    assert ours == theirs


def test_each_part_names_the_same_things() -> None:
    """Each part has the same commands, options, files, settings and metrics in backticks."""
    for number, (ours, theirs) in enumerate(zip(_split_parts(CHINESE), _split_parts(ENGLISH), strict=True)):
        heading = list_headings(ENGLISH)[number - 1][1] if number else "the beginning"

        assert _find_code(ours) == _find_code(theirs), f"README.zh-CN.md differs under {heading!r}"


def test_it_has_the_same_links() -> None:
    """Both have the same links in the same order, except the links between the READMEs."""
    ours, theirs = ([link for link in list_links(page) if link not in EACH_OTHER] for page in (CHINESE, ENGLISH))

    assert ours == theirs


def test_it_is_chinese_and_they_find_each_other() -> None:
    """More than half of its letters outside of code are Chinese; each README links to the other."""
    text = re.sub(r"`[^`]*`", "", read_prose(CHINESE))
    han, latin = (len(re.findall(pattern, text)) for pattern in (r"[\u4e00-\u9fff]", r"[A-Za-z]"))

    assert han > latin
    assert "README.md" in set(list_links(CHINESE))
    assert "README.zh-CN.md" in set(list_links(ENGLISH))
