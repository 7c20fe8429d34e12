"""Sparklines for any values."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from agent.text.sparkline import draw_sparkline


@given(st.lists(st.none() | st.floats(-1e9, 1e9)))
@example([-1.0, 5e-324])  # their quotient is infinite
def test_a_sparkline_has_a_character_for_each_value(trail: list[float | None]) -> None:
    """Each value is one character, a missing one a gap."""
    line = draw_sparkline(trail)

    assert len(line) == len(trail)
    assert all((character == " ") is (value is None) for character, value in zip(line, trail, strict=True))


def test_the_largest_value_is_the_highest() -> None:
    """The line begins at zero; values below zero are drawn as zero."""
    assert draw_sparkline([0, 2, None, 4, -1]) == "▁▄ █▁"
    assert draw_sparkline([0, 0]) == "▁▁"
