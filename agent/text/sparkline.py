"""Draws values as one line of block characters."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def draw_sparkline(values: Sequence[float | None]) -> str:
    """Draws each value as one character, from zero to the largest value, with a gap for None."""
    highest = max((value for value in values if value is not None), default=0.0)
    scale = highest if highest > 0 else 1.0
    return "".join(" " if value is None else BLOCKS[int(max(value, 0.0) / scale * 7.999)] for value in values)
