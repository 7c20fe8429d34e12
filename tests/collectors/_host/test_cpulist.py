"""Lists of numbers in the kernel's format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors._host.cpulist import parse_cpulist


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0", frozenset({0})),
        ("0-3", frozenset(range(4))),
        ("0-1,8,10-11", frozenset({0, 1, 8, 10, 11})),
        ("5-5\n", frozenset({5})),
    ],
)
def test_lists_are_expanded(text: str, numbers: frozenset[int]) -> None:
    """Single numbers and ranges are parsed, with or without the newline."""
    assert parse_cpulist(text) == numbers


@pytest.mark.parametrize("text", ["", "-1", "3-1", "0-", "0,,1", "0-99999", "0-999999999999", "1_0", "a", "٣", "0 1"])
def test_what_is_no_list_is_none(text: str) -> None:
    """Malformed texts give None, and no range exhausts memory."""
    assert parse_cpulist(text) is None


@given(st.text())
def test_any_text_gives_numbers_or_none(text: str) -> None:
    """No text raises."""
    numbers = parse_cpulist(text)

    assert numbers is None or (numbers and all(number >= 0 for number in numbers))


@given(st.frozensets(st.integers(0, 2000), min_size=1))
def test_what_is_written_is_read(numbers: frozenset[int]) -> None:
    """A list of any numbers, written one by one, parses to the same numbers."""
    assert parse_cpulist(",".join(map(str, sorted(numbers)))) == numbers
