"""What an expression would make its parser take is bounded before it is parsed."""

from __future__ import annotations

import json

import pytest

from rules import promql
from rules.promql import PromqlError
from rules.promql.parser_limits import MAX_PATTERN_COPIES, MAX_WORD_COPIES, check_parser_limits

LABELS = ",".join(f'l{number}="b"' for number in range(28))
PATTERNS = ",".join(f"l{number}=~'b'" for number in range(28))


@pytest.mark.parametrize(
    "text",
    [
        " or ".join([f"up{{{PATTERNS}}}"] * 190),
        " or ".join([f"up{{{LABELS}}}"] * 190),
        " + ".join([f"sum by ({','.join(f'l{n}' for n in range(60))}) (up)"] * 150),
        "abs(" * 150 + f"up{{{','.join(f'l{n}!~`x`' for n in range(2_000))}}}" + ")" * 150,
    ],
    ids=["patterns in a chain", "labels in a chain", "groupings in a chain", "patterns below functions"],
)
def test_copies_at_each_level_are_refused(text: str) -> None:
    """The parser's objects hold all that is below them: 47 KB of text took 900 MB in one call."""
    assert len(text) < 64 << 10
    with pytest.raises(PromqlError, match=r"names and values and [\d,]+ regular expressions in up to \d+ levels"):
        promql.compile(text)


@pytest.mark.parametrize(
    "text",
    [
        " or ".join([f"up{{{LABELS}}}"] * 40),
        " or ".join(['up{job=~"a|b", instance!~"c.*"}'] * 70),
        f"up{{{','.join(f'l{n}!~`x`' for n in range(500))}}}",
        f"sum by ({','.join(f'l{n}' for n in range(9_000))}) (up)",
        "label_replace(" * 180 + "up" + ", 'a', '$1', 'b', '(.*)')" * 180,
    ],
    ids=["labels", "patterns", "one selector", "one grouping", "deep calls"],
)
def test_long_expressions_that_people_write_are_taken(text: str) -> None:
    """Generated dashboards and rules have many alternatives, or many labels, but not both at a hundred levels."""
    assert promql.compile(text).names == {"up"}


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", "`{}`"])
@pytest.mark.parametrize("space", ["", "  ", " # =~ 'x'\n "])
def test_a_pattern_is_found_however_it_is_written(quoted: str, space: str) -> None:
    """Quotes of three kinds, blanks and comments; a string that is no pattern does not count."""
    large = quoted.format(r"\pN{150}" if quoted[0] == "`" else r"\\pN{150}")
    with pytest.raises(PromqlError, match="take more than 16 MiB when compiled"):
        check_parser_limits("up{" + ",".join(f"l{n}!~{space}{large}" for n in range(20)) + "}", 2)

    check_parser_limits("up{" + ",".join(f"l{n}!={space}{large}" for n in range(20)) + "}", 2)


def test_an_escape_does_not_hide_a_pattern() -> None:
    r"""`\x5c` is a backslash to the parser, so it is one here."""
    text = "up{" + ",".join(f'l{number}=~"\\x5cpN{{150}}"' for number in range(20)) + "}"
    with pytest.raises(PromqlError, match="take more than 16 MiB when compiled"):
        promql.compile(text)


@pytest.mark.parametrize("text", ['up{a=~"("}', 'up{a=~"\\z"}', 'up{a=~"', "up{a=~", "=~ =~", "up{a=~'\\q'}", "=~ '\\"])
def test_what_is_invalid_is_left_to_the_parser(text: str) -> None:
    """It knows the place of a fault."""
    check_parser_limits(text, 2)
    with pytest.raises(PromqlError, match="parse error"):
        promql.compile(text)


def test_the_limits_are_those_in_the_error() -> None:
    """One word or pattern more is too many."""
    check_parser_limits(" ".join(["a"] * (MAX_WORD_COPIES // 200)), 200)
    with pytest.raises(PromqlError, match="the expression has 2,001 names and values"):
        check_parser_limits(" ".join(["a"] * (MAX_WORD_COPIES // 200 + 1)), 200)
    patterns = ",".join(f"a=~{json.dumps(f'x{n}')}" for n in range(MAX_PATTERN_COPIES // 200 + 1))
    with pytest.raises(PromqlError, match="101 regular expressions in up to 200 levels"):
        check_parser_limits(patterns, 200)
