"""Draws a run as a self-contained SVG: speed and time to the first token of each request."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from agent.enginebench.client import EngineClient
from agent.enginebench.heat import Heat
from agent.enginebench.load import LoadRun
from agent.enginebench.summary import format_verdict, summarise_run

WIDTH, LEFT, RIGHT = 820, 78, 24
TOP, PANEL, GAP = 78, 190, 52
BOTTOM = 122

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"
 font-family="system-ui, sans-serif" font-size="13" fill="#222">
<title>{title}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="{left}" y="30" font-size="18" font-weight="600">{title}</text>
<text x="{left}" y="52" fill="#555">{about}</text>
"""


class _Panel:
    """A pair of axes that begin at 0; request n is at x(n), a value at y(value)."""

    def __init__(self, top: int, count: int, highest: float) -> None:
        self.top = top
        self.bottom = top + PANEL
        self.step = round_step(highest / 4)
        self.highest = self.step * max(1, math.ceil(highest / self.step))
        self._count = count

    def x(self, number: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (number - 0.5) / self._count

    def y(self, value: float) -> float:
        return self.bottom - PANEL * value / self.highest

    def draw_axes(self, title: str) -> Iterator[str]:
        yield f'<text x="{LEFT}" y="{self.top - 10}" font-weight="600">{html.escape(title)}</text>\n'
        for index in range(round(self.highest / self.step) + 1):
            value = index * self.step
            y = self.y(value)
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>\n'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value:g}</text>\n'
        label_interval = max(1, math.ceil(self._count / 20))
        for number in range(1, self._count + 1):
            if number == 1 or number % label_interval == 0:
                position = f'x="{self.x(number):.1f}" y="{self.bottom + 18}"'
                yield f'<text {position} text-anchor="middle" fill="#555">{number}</text>\n'


def render_svg(engine: EngineClient, run: LoadRun, before: Heat, after: Heat) -> str:
    """Returns the SVG of a run."""
    speeds = [answer.speed for answer in run.answers]
    first_token_ms = [None if answer.first_token is None else answer.first_token * 1000 for answer in run.answers]
    height = TOP + 24 + 2 * PANEL + GAP + BOTTOM
    summary = summarise_run(run)
    subtitle = f"{engine.url}: {summary.requests} requests, {summary.tokens} tokens in {summary.seconds:.1f} s"
    title = f"Does its speed hold? {engine.model or engine.url}"
    parts = [_HEAD.format(width=WIDTH, height=height, left=LEFT, title=html.escape(title), about=html.escape(subtitle))]
    parts += _draw_panel(TOP + 24, "Tokens per second while decoding", speeds, "#1f6feb", line=True)
    parts += _draw_panel(
        TOP + 24 + PANEL + GAP, "Time to first token, milliseconds", first_token_ms, "#b35900", line=False
    )
    panels_bottom = height - BOTTOM
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{panels_bottom + 36}" text-anchor="end" fill="#555">request</text>\n')
    for index, sentence in enumerate(_wrap_text(format_verdict(summary, before, after))):
        parts.append(f'<text x="{LEFT}" y="{panels_bottom + 60 + 18 * index}">{html.escape(sentence)}</text>\n')
    return "".join([*parts, "</svg>\n"])


def _draw_panel(top: int, title: str, values: Sequence[float | None], colour: str, *, line: bool) -> Iterator[str]:
    points = [(number, value) for number, value in enumerate(values, 1) if value is not None]
    panel = _Panel(top, max(len(values), 1), max((value for _, value in points), default=0.0) or 1.0)
    yield from panel.draw_axes(title)
    coordinates = [(panel.x(number), panel.y(value)) for number, value in points]
    if line and coordinates:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
    for x, y in coordinates:
        if not line:
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{panel.bottom}" y2="{y:.1f}" stroke="{colour}"/>\n'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>\n'


def round_step(step: float) -> float:
    """Rounds up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step * 0.999)


def _wrap_text(text: str, width: int = 108) -> list[str]:
    """Breaks a text into lines of at most `width` characters."""
    rows = [""]
    for word in text.split():
        if rows[-1] and len(rows[-1]) + len(word) >= width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    return rows
