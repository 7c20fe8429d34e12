"""The verdict on a run: whether its speed sagged, and what else changed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.enginebench.client import Completion, EngineClient, StreamEvent
from agent.enginebench.heat import Heat
from agent.enginebench.load import LoadRun
from agent.enginebench.plot import render_svg, round_step
from agent.enginebench.report import average_parts, format_lines, to_json
from agent.enginebench.summary import compute_percentiles, compute_sag, format_verdict, summarise_run
from agent.text.sparkline import draw_sparkline

UNKNOWN = Heat()
COOL = Heat(dimm=45.0, processor=50.0, hertz=3.2e9, throttled=0.0)


def run(speeds: Sequence[float], first_token: float = 0.1) -> LoadRun:
    """Returns a run with the given speeds and 11 tokens in each answer."""
    answers, now = [], 0.0
    for speed in speeds:
        times = [now + first_token + index / speed for index in range(11)]
        answers.append(
            Completion(now, times[-1], tuple(StreamEvent(at, has_text=True) for at in times), 11, is_streamed=True)
        )
        now = times[-1]
    return LoadRun(len(speeds), answers)


def say(speeds: Sequence[float], before: Heat = UNKNOWN, after: Heat = UNKNOWN) -> str:
    """Returns the verdict on the given speeds."""
    return format_verdict(summarise_run(run(speeds)), before, after)


INCIDENT = [15.0, 15.0, 14.0, 12.5, 10.5, 10.4, 10.2, 10.0, 9.8, 9.8]  # 30 % down after five, 65 % after ten


def test_the_curve_of_the_incident_is_seen() -> None:
    """Requests that slow down to 65 % are reported with both ends and the loss."""
    assert "It sags: 15.0 tokens/s at first, 9.8 at the end, 35 % less." in say(INCIDENT)


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        (COOL._replace(dimm=86.0), "Meanwhile the hottest DIMM went from 45 to 86 °C."),
        (
            COOL._replace(processor=97.0, hertz=2.1e9),
            "from 50 to 97 °C and the processors went from 3.20 to 2.10",
        ),
        (COOL._replace(throttled=12.0), "processors were throttled for heat 12 times"),
        (COOL, "No sensor got hotter: look at memory placement"),
    ],
)
def test_what_else_changed_is_named(after: Heat, cause: str) -> None:
    """The cause is heat, frequency or throttling when the sensors show it, and placement otherwise."""
    assert cause in say(INCIDENT, COOL, after)


def test_without_sensors_no_cause_is_guessed() -> None:
    """Without heat sensors placement is not named as the cause."""
    summary = say(INCIDENT)

    assert "No sensor reports the heat of DIMM or processor here" in summary
    assert "placement" not in summary


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ([10.0] * 20, "It holds: 10.0 tokens/s at first, 10.0 at the end."),
        ([10.0, 10.3, 9.8, 10.1, 9.9, 10.2, 9.7], "It holds"),
        ([5.0, 6.0, 9.0, 10.0, 10.0, 10.0, 10.0, 10.0], "It was slow at first"),
        ([10.0, 6.0, 11.0, 5.0, 10.0, 6.0, 10.0, 6.0], "Its speed jumps by"),
        ([10.0] * 4, "Fewer than 5 requests"),
        ([], "Fewer than 5 requests"),
    ],
)
def test_what_is_no_sag(speeds: list[float], words: str) -> None:
    """Steady, noisy, warming-up and too short runs do not sag."""
    assert words in say(speeds)


@given(st.lists(st.floats(0.1, 1000.0), min_size=5, max_size=60))
def test_the_ends_are_those_of_the_run(speeds: list[float]) -> None:
    """The ends of a sag lie between the slowest and the fastest request."""
    computed = compute_sag(speeds)
    assert computed is not None
    assert min(speeds) <= min(computed.first, computed.last) <= max(computed.first, computed.last) <= max(speeds)
    assert computed.lost == pytest.approx(1 - computed.last / computed.first)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_values_that_were_measured(values: list[float]) -> None:
    """Nearest rank: at least that share of the values is at or below each."""
    computed = compute_percentiles(values)
    assert computed is not None
    for share, value in zip((0.5, 0.9, 0.99, 1.0), computed, strict=True):
        assert value in values
        assert sum(each <= value for each in values) >= share * len(values)


@given(st.lists(st.floats(0.1, 1000.0), max_size=60), st.booleans())
def test_the_picture_can_be_drawn_of_any_run(speeds: list[float], odd: bool) -> None:
    """The SVG is well-formed, each request is a point in each panel, and every point is inside the picture."""
    engine = EngineClient("http://127.0.0.1:1", model="<a&b>" if odd else "m")
    root = ElementTree.fromstring(render_svg(engine, run(speeds), Heat(), COOL))
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    width, height = float(root.attrib["width"]), float(root.attrib["height"])

    assert len(circles) == 2 * len(speeds)
    assert all(0 <= float(c.attrib["cx"]) <= width and 0 <= float(c.attrib["cy"]) <= height for c in circles)


@given(st.floats(1e-6, 1e9))
def test_axes_count_by_round_numbers(step: float) -> None:
    """A step is 1, 2, 2.5 or 5 times a power of ten, and not smaller than requested."""
    assert round_step(step) >= step * 0.998
    assert re.match(r"(1|2|2\.5|5)0*e", f"{round_step(step):.1e}".replace(".0e", "e"))


def test_the_table_tells_what_the_json_tells() -> None:
    """The table has requests, percentiles, heat and verdict; a long run shows its first and last requests."""
    engine, many = EngineClient("http://127.0.0.1:1", model="m"), run([10.0] * 100)
    table = list(format_lines(engine, many, COOL, COOL._replace(dimm=60.0)))
    fields = to_json(engine, many, COOL, COOL)

    assert sum(line.split()[1:2] == ["11"] for line in table) == 40
    assert "hottest DIMM         45 °C before, 60 °C after" in table
    assert table[-1] == fields["verdict"] == "It holds: 10.0 tokens/s at first, 10.0 at the end."
    assert fields["first_token_seconds"]["p50"] == pytest.approx(0.1)
    assert (fields["tokens"], len(fields["requests"])) == (1100, 100)


def test_failures_are_told_once_with_their_number() -> None:
    """Equal failures share one line."""
    failed = LoadRun(3, [], ["no", "no"], "given up after 3 failures in a row")
    table = list(format_lines(EngineClient("http://127.0.0.1:1"), failed, Heat(), Heat()))

    assert "2 failed: no" in table
    assert "Given up after 3 failures in a row." in table


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_a_curve_in_one_line(values: list[float]) -> None:
    """A sparkline has at most 60 steps; equal values are a flat line."""
    assert len(draw_sparkline(average_parts(values))) == min(60, len(values))
    assert len(set(draw_sparkline(average_parts([5.0] * 7)))) == 1
